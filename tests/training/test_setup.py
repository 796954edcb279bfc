"""From names to a training: training from a cache and live are the same."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from data import lisa_files, make_refer
from own_data import write_coco
from seglens.checkpoints.config import read_config, weights_sum
from seglens.checkpoints.origin import CheckpointError, Origin
from seglens.core.devices import usable_device
from seglens.core.geometry import LETTERBOX, Canvas, Frame, floor_targets
from seglens.core.types import Sample, Target, Totals
from seglens.data.image_record import ImageRecord, QueryRecord
from seglens.data.masks import Polygons
from seglens.data.mixing import RATES, Epochs, Mixed
from seglens.data.records import Records
from seglens.data.sampling import Mixture, SamplingSource
from seglens.features.cache import Cache, CacheError
from seglens.features.examples import Batch, Example, collate
from seglens.features.frozen import Features
from seglens.inference.frozen_models import Parts
from seglens.inference.segmenter import Segmenter
from seglens.methods.lisa import LisaConfig
from seglens.methods.preset import TILE
from seglens.methods.tuned import TunedMethod
from seglens.training.config import TrainConfig
from seglens.training.example_stream import MixtureStream, PartlyCachedStream, SampledStream, frozen_stream
from seglens.training.presets import RECIPES, Recipe, adjusted, recipe
from seglens.training.setup import TrainingRun, prepare
from seglens.training.training_data import any_absent, open_data
from train_run import LONG, SMALL, fresh

DATA = "world:n=3,seed=3,split=train,queries=3"
SHORT = Recipe(SMALL, replace(LONG, steps=4, save_every=4))


@pytest.fixture(scope="module")
def tiny_recipe(llava: Path, sam: Path) -> Recipe:
    return replace(SHORT, backbone=str(llava), decoder=str(sam))


def trained(run: TrainingRun, out: Path) -> dict[str, torch.Tensor]:
    run.run(out, quiet=True)
    return load_file(out / "head" / "head.safetensors")


def test_readers_of_data_that_is_no_mixture_are_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got 2 readers for world:.*, which is no mixture; .* leave out --readers"):
        prepare(tiny_recipe, DATA, tmp_path / "run", readers=2)
    assert not (tmp_path / "run").exists()


def test_training_from_a_cache_and_live_give_the_same_weights(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Bit for bit: the same losses at every step lead to the same weights."""
    live = trained(prepare(tiny_recipe, DATA, tmp_path / "live", live=True), tmp_path / "live")
    cached = trained(prepare(tiny_recipe, DATA, tmp_path / "kept"), tmp_path / "kept")
    assert (tmp_path / "kept" / "features").is_dir()
    assert not (tmp_path / "live" / "features").exists()
    assert all(torch.equal(live[name], cached[name]) for name in live)
    again = trained(
        prepare(tiny_recipe, DATA, tmp_path / "more", cache=tmp_path / "kept" / "features"), tmp_path / "more"
    )
    assert all(torch.equal(live[name], again[name]) for name in live)


def write_lisa(root: Path) -> Path:
    """A few drawn pictures in each of the ten datasets of LISA's tree."""
    for write in (lisa_files.write_ade20k, lisa_files.write_cocostuff):
        write(root, a=lisa_files.stripes(0, 1, 2, 3), b=lisa_files.stripes(6, 7))
    lisa_files.write_mapillary(root, ["Bird", "Curb"], a=lisa_files.stripes(0, 1))
    lisa_files.write_paco(root)
    lisa_files.write_pascal_part(root)
    for name, by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        make_refer.save(root / "refer_seg", name, f"refs({by}).p")
    clef = make_refer.instances("saiapr_{}.jpg")
    make_refer.save(root / "refer_seg", "refclef", content=clef, images=())
    for image in clef["images"]:
        make_refer.save_image(root / "refer_seg/images/saiapr_tc-12" / image["file_name"])
    make_refer.save_reason(root / "reason_seg", "train")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "authors"])
def test_published_mixtures_can_be_trained_on(name: str, tiny_recipe: Recipe, tmp_path: Path) -> None:
    """A preset as published, except for the sizes of its models and of its steps: live, and from caches."""
    published = recipe(name)
    training = replace(published.training, steps=3, images=8, micro=2, warmup=1, save_every=3, mixed_precision="no")
    small = replace(published.method, descriptor_width=16, encoder_width=16)
    tiny = replace(
        published,
        method=small,
        training=training,
        backbone=tiny_recipe.backbone,
        decoder=tiny_recipe.decoder,
        layer=None,
    )
    data = f"lisa:root={write_lisa(tmp_path / 'data')}"
    live = prepare(tiny, data, tmp_path / "live")
    assert isinstance(live.stream, MixtureStream)
    sources = live.stream.mixed.mixture.sources
    assert [source.group for source in sources] == ["sem_seg"] * 5 + ["refer_seg"] * 4 + ["reason_seg"]
    assert tuple(live.stream.mixed.mixture.rates.values()) == RATES[name]
    assert all(1 <= len(live.stream.example(n).questions) <= 3 for n in range(4))
    assert live.stream.name(3) == live.stream.mixed.sample(3).id
    kept = prepare(tiny, data, tmp_path / "kept", cache=tmp_path / "cache")
    assert isinstance(kept.stream, SampledStream)
    assert len(list((tmp_path / "cache").iterdir())) == 10
    assert kept.stream.name(3).startswith("image ")
    for run, out in ((live, tmp_path / "live"), (kept, tmp_path / "kept")):
        weights = trained(run, out)
        assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
        assert json.loads((out / "head" / "config.json").read_text())["trained"]["data"] == data
        with pytest.raises(ValueError, match="other settings"):
            prepare(replace(tiny, training=replace(training, lr=1.0)), data, out, cache=tmp_path / "cache").run(out)


def test_some_questions_have_the_features_that_they_have_among_all(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Live reads the questions that were drawn, a cache has read all: only the order of sums differs."""
    assert tiny_recipe.backbone
    assert tiny_recipe.decoder
    parts = Parts.load(Origin.of(tiny_recipe.backbone), Origin.of(tiny_recipe.decoder))
    data, _ = open_data(DATA, tiny_recipe)
    assert not isinstance(data, Mixed)
    cache, live = parts.cached(data, DATA, tmp_path), parts.live(data, DATA)
    readings = [collate([source.example(1, (2, 0))]).inputs.question for source in (cache, live)]
    # measured: 1.9e-6 of values up to 4.3
    torch.testing.assert_close(*readings, rtol=0, atol=1e-5)


def test_losses_of_a_question_do_not_depend_on_the_rest_of_the_batch(
    tiny_recipe: Recipe, llava: Path, sam: Path, tmp_path: Path
) -> None:
    """Void questions of a mixed batch change nothing for the others."""
    parts = Parts.load(Origin(str(llava)), Origin(str(sam)))
    data, _ = open_data(DATA, tiny_recipe)
    assert not isinstance(data, Mixed)
    live, head = parts.live(data, DATA), fresh(parts.backbone, parts.decoder).eval()
    one, two = live.example(0, (0,)), live.example(1, (0, 1, 2))
    with torch.no_grad():
        alone, beside = (head(b.inputs, b.embedding) for b in (collate([one]), collate([one, two])))
    torch.testing.assert_close(beside.mask_logits[:1, :1], alone.mask_logits, rtol=0, atol=2e-5)
    truth = collate([one, two]).truth
    terms = head.losses(beside, truth)
    padded = replace(truth, masks=truth.masks.clone(), present=truth.present.clone())
    padded.masks[0, 1:] = 1
    padded.present[0, 1:] = True
    assert {k: float(v) for k, v in head.losses(beside, padded).items()} == {k: float(v) for k, v in terms.items()}


def test_a_cache_of_other_data_or_weights_is_refused(
    tiny_recipe: Recipe, llava: Path, sam: Path, tmp_path: Path
) -> None:
    mine = {part: shutil.copytree(folder, tmp_path / part) for part, folder in (("backbone", llava), ("decoder", sam))}
    named = replace(tiny_recipe, **{part: str(folder) for part, folder in mine.items()})
    prepare(named, DATA, tmp_path / "out")
    for part, folder in mine.items():
        file = folder / "model.safetensors"
        before, state = file.read_bytes(), load_file(file)
        save_file({name: tensor + 0.01 for name, tensor in state.items()}, file, metadata={"format": "pt"})
        with pytest.raises(CacheError, match=rf"{part}\.files is"):
            prepare(named, DATA, tmp_path / "out")
        file.write_bytes(before)
    run = prepare(named, DATA, tmp_path / "out")
    assert isinstance(run.stream, SampledStream)
    assert isinstance(run.stream.sampler, Epochs)


def test_a_cache_of_another_canvas_or_other_targets_is_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """And a head that was trained on another canvas is used on it."""
    features = tmp_path / "default" / "features"
    prepare(tiny_recipe, DATA, tmp_path / "default")
    squashed = replace(tiny_recipe, canvas=TILE)
    with pytest.raises(CacheError, match=r'backbone\.frame is "pad-mean", wanted "squash-mean-processor"'):
        prepare(squashed, DATA, tmp_path / "out", cache=features)
    floored = replace(tiny_recipe, method=replace(SMALL, map_size=16, map_target="floor"))
    with pytest.raises(CacheError, match=r"truth\.floors is nothing, wanted 16"):
        prepare(floored, DATA, tmp_path / "out", cache=features)
    run = prepare(squashed, DATA, tmp_path / "squashed")
    run.run(tmp_path / "squashed", quiet=True)
    assert read_config(tmp_path / "squashed" / "head").canvas == TILE
    assert Segmenter.from_pretrained(tmp_path / "squashed" / "head").open(
        np.zeros((20, 60, 3), np.uint8)
    ).seen.frame == (Frame(20, 60, "squash"))


def test_floored_targets_reach_the_loss(tiny_recipe: Recipe, tmp_path: Path) -> None:
    floored = replace(tiny_recipe, method=replace(SMALL, map_scale="peak", map_size=16, map_target="floor"))
    run = prepare(floored, DATA, tmp_path)
    data, _ = open_data(DATA, tiny_recipe)
    for source in (run.stream.sources[0], prepare(floored, DATA, tmp_path / "live", live=True).stream.sources[0]):
        questions = source.example(1, (0, 2)).questions
        masks = np.stack([data[1].targets[q].mask for q in (0, 2)])
        assert torch.equal(torch.stack([one.cells for one in questions]), floor_targets(masks, Frame(256, 256), 16))
    assert run.run(tmp_path, quiet=True)["attention"] > 0
    short = collate([prepare(tiny_recipe, DATA, tmp_path / "short").stream.sources[0].example(1, (0, 2))])
    with pytest.raises(ValueError, match=r"needs targets of 16 x 16 cells .*floors=16"):
        run.head.losses(run.head(short.inputs, short.embedding), short.truth)


def test_the_head_records_its_training(tiny_recipe: Recipe, tmp_path: Path) -> None:
    run = prepare(tiny_recipe, DATA, tmp_path, exam="world:n=1,seed=2,queries=2")
    run.run(tmp_path, quiet=True)
    written = json.loads((tmp_path / "head" / "config.json").read_text())
    assert written["trained"]["data"] == DATA
    assert written["trained"]["training"]["steps"] == 4
    assert written["image_size"] == 84
    assert (tmp_path / "best" / "head.safetensors").is_file()


def test_wrong_inputs_are_refused_before_anything_is_written(tiny_recipe: Recipe, tmp_path: Path) -> None:
    def refused(message: str, recipe: Recipe = tiny_recipe, data: str = DATA) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            prepare(recipe, data, tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    refused(r"'world:n=2' is kept for tests.*add split=train", data="world:n=2")
    refused("give --backbone and --decoder", recipe=SHORT)
    refused(r"LISA's data in .* is not complete", data=f"lisa:root={tmp_path}")
    refused("there is no dataset 'wrld'; .*did you mean 'world'", data="wrld:n=2")


def test_a_step_that_cannot_be_divided_is_refused_before_a_model_is_loaded(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="a step of 3 images cannot be cut into passes of 1 on 2 devices"):
        prepare(replace(tiny_recipe, decoder="/no/such/decoder"), DATA, tmp_path)


def test_a_published_step_can_be_divided_over_its_devices() -> None:
    paper, authors = recipe("paper"), recipe("authors")
    assert paper.training.passes(8) == (10, 2)
    assert authors.training.passes(8) == (4, 8)
    assert authors.training.rate(999) == 1
    with pytest.raises(ValueError, match=r"there is no preset of lens 'papers'.*did you mean 'paper'"):
        recipe("papers")


PUBLISHED = {  # LENS's text where it gives one, else LISA's train_ds.py; and configs/default.yaml of LENS's own code
    "backbone": ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
    "decoder": ("facebook/sam-vit-huge", "facebook/sam-vit-huge"),
    "layer": (14, 14),
    "rates": ("paper", "authors"),
    "newton": ("paper", "paper"),  # both are S1.2 without our guards
    "steps": (10 * 500, 10 * 100),
    "images": (160, 8 * 8 * 4),
    "lr": (5e-5, 1e-4),
    "betas": ((0.9, 0.95), (0.9, 0.95)),
    "weight_decay": (0.0, 0.0),
    "schedule": ("linear", "constant"),
    "warmup": (100, 0),
    "clip": (1.0, None),
    "mixed_precision": ("bf16", "bf16"),
    "keypoints": (16, 16),
    "aggregate": ("mean", "last"),
    "map_scale": ("raw", "peak"),
    "map_size": (None, 128),
    "map_target": ("share", "floor"),
    "cls_std": (0.02, 1.0),
    "canvas": (LETTERBOX, Canvas(resample="sam-processor", padding="black")),
    "threshold": (0.0, 0.4),
    "coordinates": ("centre", "corner"),
    "drop": (0.5, 0.9),
    "dice_weight": (2.0, 4.0),
    "bce_weight": (4.0, 2.0),
    "attention_weight": (1.0, 1.0),
    "presence_weight": (0.0, 0.0),
    "train_mask_decoder": (True, True),
}


@pytest.mark.parametrize("setting", PUBLISHED)
def test_presets_have_the_published_numbers(setting: str) -> None:
    for name, expected in zip(("paper", "authors"), PUBLISHED[setting], strict=True):
        preset = recipe(name)
        assert ({**vars(preset), **vars(preset.training), **vars(preset.method)})[setting] == expected, name


def test_stages_and_optimisers_are_the_authors() -> None:
    """MLLMSeg's train_mllmseg_gres.sh: 20,000 steps of 32, 3 % of them warm-up; UFO's AdamW is torch's by default."""
    res, gres, ufo = recipe("authors", "mllmseg"), recipe("authors-gres", "mllmseg"), recipe("authors", "ufo").training
    assert (res.training.steps, res.training.warmup) == (50_000, 1500)
    assert gres == replace(res, training=replace(res.training, steps=20_000, warmup=600))
    assert (gres.training.images, gres.training.lr, gres.training.weight_decay) == (32, 4e-5, 0.05)
    assert (ufo.betas, ufo.weight_decay, ufo.decay, ufo.language_lr) == ((0.9, 0.999), 0.01, "all", None)


def test_the_language_model_can_have_another_rate(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """The first step of Adam is as long as the rate, whatever the gradient."""
    training = replace(
        tiny_recipe.training, steps=1, lr=1e-3, language_lr=1e-4, warmup=0, schedule="constant", clip=None
    )
    run = prepare(replace(tiny_recipe, method=LISA, training=training), DATA, tmp_path)
    assert isinstance(run.head, TunedMethod)
    assert not run.head.mllm.model.language.recompute  # type: ignore[attr-defined]
    before = {name: tensor.clone() for name, tensor in run.head.state_dict().items()}
    run.run(tmp_path, quiet=True)
    moved = {name: float((after - before[name]).abs().max()) for name, after in run.head.state_dict().items()}
    for name in ("adapter.language.0.self_attn.q_proj.B", "adapter.words.new_output"):
        assert moved[name] == pytest.approx(1e-4, rel=0.01), name
    assert moved["project.0.weight"] == pytest.approx(1e-3, rel=0.01)
    head = read_config(tmp_path / "head")
    assert head.trained is not None
    assert head.trained["training"]["language_lr"] == 1e-4
    frozen = replace(tiny_recipe, training=training)
    with pytest.raises(ValueError, match="trains nothing inside the language model; leave it out"):
        prepare(frozen, DATA, tmp_path / "lens").run(tmp_path / "lens", quiet=True)


def test_a_head_is_trained_on_a_model_in_4_bits(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen alone; its copied layers are whole. Without bitsandbytes the error says what to install."""
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'seglens[quant]'")
    embedded = replace(tiny_recipe, backbone="embedded/mllm", decoder="embedded/sam", layer=None)
    run = prepare(embedded, DATA, tmp_path / "run", live=True, load_in="4bit", device="cpu")
    assert all(p.dtype == torch.float32 for p in run.head.parameters())
    before = {name: p.clone() for name, p in run.head.named_parameters() if p.requires_grad}
    run.run(tmp_path / "run", quiet=True)
    assert any(not torch.equal(p, before[name]) for name, p in run.head.named_parameters() if name in before)
    with pytest.raises(ValueError, match="lisa trains inside the MLLM"):
        prepare(replace(tiny_recipe, method=LISA), DATA, tmp_path / "other", load_in="4bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"seglens\[quant\]"):
        prepare(tiny_recipe, DATA, tmp_path / "third", load_in="4bit", device="cpu")


def test_large_models_are_trained_with_gradient_checkpointing(tiny_recipe: Recipe, tmp_path: Path) -> None:
    assert TrainConfig().recomputes(7 * 10**9)
    assert not TrainConfig().recomputes(10**8)
    assert not TrainConfig(recompute=False).recomputes(7 * 10**9)
    run = prepare(adjusted(replace(tiny_recipe, method=LISA), ["recompute=true"]), DATA, tmp_path)
    assert isinstance(run.head, TunedMethod)
    assert run.head.mllm.model.language.recompute  # type: ignore[attr-defined]


def test_settings_are_typed_and_checked() -> None:
    settings = ("lr=1e-3", "micro=none", "newton=none", "map_size=64", "aggregate=mean", "betas=0.8+0.9", "clip=none")
    preset = adjusted(RECIPES["lens"]["paper"], settings)
    assert (preset.training.lr, preset.training.micro, preset.training.betas) == (1e-3, None, (0.8, 0.9))
    assert (preset.method.newton, preset.method.map_size, preset.method.aggregate) == ("none", 64, "mean")
    assert preset.training.clip is None
    for text, expected in (
        ("learning=1", "no setting 'learning'"),
        ("stepz=1", "did you mean 'steps'"),
        ("lr", "name=value"),
        ("steps=many", "got steps=many; it must be a whole number"),
        ("newton=maybe", "got newton=maybe; choose from guarded"),
        ("train_mask_decoder=maybe", "got train_mask_decoder=maybe; choose from true, false"),
        ("aggregate=max", "got aggregate=max; choose from mean, last"),
        ("mixed_precision=fp16", "got mixed_precision=fp16; choose from bf16, no"),
    ):
        with pytest.raises(ValueError, match=expected):
            adjusted(RECIPES["lens"]["paper"], [text])


def test_a_missing_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device 'tpu9' cannot be used here"):
        usable_device("tpu9")


def test_a_cache_built_by_hand_is_used(tiny_recipe: Recipe, llava: Path, sam: Path, tmp_path: Path) -> None:
    """Of any precision; of other data it is refused, and nothing is written into it."""
    parts = Parts.load(Origin(str(llava)), Origin(str(sam)))
    data, _ = open_data(DATA, tiny_recipe)
    assert not isinstance(data, Mixed)
    parts.cached(data, DATA, tmp_path / "mine", "int8")
    before = sorted(p.name for p in (tmp_path / "mine").iterdir())
    run = prepare(tiny_recipe, DATA, tmp_path / "out", exam="world:n=1,seed=2,queries=2", cache=tmp_path / "mine")
    assert isinstance(run.stream, SampledStream)
    assert isinstance(run.stream.sources[0], Cache)
    assert run.stream.sources[0].manifest.dtype == "int8"
    with pytest.raises(CacheError, match=r"data is .*, wanted .*n=2"):
        prepare(tiny_recipe, DATA.replace("n=3", "n=2"), tmp_path / "other", cache=tmp_path / "mine")
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == before


@pytest.mark.parametrize("live", [False, True])
def test_bad_samples_are_left_out_of_a_training_on_request(tiny_recipe: Recipe, tmp_path: Path, live: bool) -> None:
    pictures = [Image.fromarray(np.full((20, 30, 3), 40 * n, np.uint8)) for n in range(4)]
    lines = []
    for n, picture in enumerate(pictures):
        picture.save(tmp_path / f"{n}.png")
        lines.append(json.dumps({"image": f"{n}.png", "text": "the box", "polygons": [[2, 2, 20, 2, 20, 15]]}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])  # cut short
    spec = f"jsonl:file={tmp_path / 'data.jsonl'}"
    with pytest.raises(ValueError, match=r"2\.png.*leave them out with bad=skip"):
        prepare(tiny_recipe, spec, tmp_path / "refused", live=live).run(tmp_path / "refused", quiet=True)
    run = prepare(tiny_recipe, f"{spec},bad=skip", tmp_path / "run", live=live)
    assert set(run.run(tmp_path / "run", quiet=True)) == {"dice", "bce", "attention", "presence"}
    assert len(run.left_out()) in ((0, 1) if live else (1,))
    assert all("2.png" in one for one in run.left_out())
    written = json.loads((tmp_path / "run" / "head" / "config.json").read_text())
    assert written["trained"]["left_out"] == (0 if live else 1)  # what is read live is found out later
    listed = tmp_path / "run" / "left_out.txt"
    assert (listed.read_text().splitlines() if listed.exists() else []) == run.left_out()
    counts = [len(run.stream.example(number).questions) for number in range(8)]
    assert counts == [1] * 8


def test_a_mixture_goes_on_without_its_bad_images_and_lists_them(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """The same draws on resume, each bad image once in the list; refused on request."""
    data, run = write_lisa(tmp_path / "data"), tmp_path / "run"
    for folder in ("coco/train2017", "ade20k/images/training"):
        bad = data / folder / "b.jpg"
        bad.write_bytes(bad.read_bytes()[:100])
    recipe = replace(tiny_recipe, training=replace(tiny_recipe.training, steps=6, save_every=3))
    spec = f"lisa:root={data},rates=1-0-0-0"
    first = trained(prepare(recipe, spec, run, live=True), run)
    shutil.rmtree(run / "step_6")
    again = trained(prepare(recipe, spec, run, live=True), run)  # goes on from step 3
    assert all(torch.equal(first[name], again[name]) for name in first)
    lines = (run / "left_out.txt").read_text().splitlines()
    assert lines
    assert all("b.jpg" in line for line in lines)
    assert len(set(lines)) == len(lines) <= 2
    refusing = prepare(recipe, f"{spec},bad=refuse", tmp_path / "refused", live=True)
    with pytest.raises(ValueError, match=r"b\.jpg.*leave them out with bad=skip"):
        refusing.run(tmp_path / "refused", quiet=True)


def test_classes_that_an_image_does_not_show_are_asked_for(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """By default, in what is cached too: the head then learns to refuse; its config states where it did not."""
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:15, 3:12] = masks[1, 20:30, 30:50] = True
    scenes = [
        Sample(str(n), np.full((40, 60, 3), 50 * n, np.uint8), (Target(("cat", "tree")[n % 2], masks[n % 2]),))
        for n in range(4)
    ]
    data = write_coco(tmp_path, scenes)
    run = prepare(replace(tiny_recipe, negatives=0.5), data, tmp_path / "run")
    assert run.config.presence == "trained"
    assert run.config.trained is not None
    assert run.config.trained["data"] == f"{data},negatives=0.5"
    (notice,) = run.notices()
    assert "negatives=0.5" in notice
    present = {question.present for number in range(4) for question in run.stream.example(number).questions}  # type: ignore[attr-defined]
    assert present == {True, False}
    without = prepare(tiny_recipe, f"{data},negatives=0", tmp_path / "without")
    assert without.config.presence == "untrained"
    assert "a mask for every query (presence: untrained" in without.notices()[0]
    with pytest.raises(CacheError, match="negatives=0"):
        prepare(
            tiny_recipe,
            f"{data},negatives=0",
            tmp_path / "other",
            cache=next((tmp_path / "run" / "features").iterdir()),
        )
    without.run(tmp_path / "without", quiet=True)
    assert read_config(tmp_path / "without" / "head").presence == "untrained"


def test_mixtures_take_negatives(tmp_path: Path) -> None:
    data = f"lisa:root={write_lisa(tmp_path)}"
    for text, name, absent in (
        (data, "default", True),
        (f"{data},negatives=0", "default", False),
        (data, "paper", False),
    ):
        mixed, _ = open_data(text, recipe(name))
        assert isinstance(mixed, Mixed)
        assert any_absent(mixed) == absent


LISA = LisaConfig(rank=2)


@pytest.mark.parametrize("method", [SMALL, LISA], ids=["frozen", "tuned"])
def test_a_training_starts_from_a_trained_head(tiny_recipe: Recipe, tmp_path: Path, method: object) -> None:
    """All of its weights, the adapter's too; recorded, and distinguished from a run that goes on."""
    first = replace(tiny_recipe, method=method)
    trained(prepare(first, DATA, tmp_path / "one"), tmp_path / "one")
    head = tmp_path / "one" / "head"
    second = replace(first, training=replace(tiny_recipe.training, seed=9, steps=6, save_every=3))
    run = prepare(second, DATA, tmp_path / "two", init=head)
    assert run.notices()[0] == f"starting from the weights of {head}"
    otherwise = replace(second, method=replace(method, **{"drop" if method is SMALL else "dropout": 0.25}))  # type: ignore[type-var]
    notice = prepare(otherwise, DATA, tmp_path / "otherwise", init=head).notices()[0]
    assert notice == f"starting from the weights of {head}, trained with " + (
        f"drop={SMALL.drop}" if method is SMALL else "dropout=0.05"
    )
    initial, fresh_one = (
        load_file(head / "head.safetensors"),
        prepare(second, DATA, tmp_path / "none").head.state_dict(),
    )
    assert all(torch.equal(tensor.cpu(), initial[name]) for name, tensor in run.head.state_dict().items())
    assert any(not torch.equal(tensor.cpu(), initial[name]) for name, tensor in fresh_one.items())
    run.run(tmp_path / "two", quiet=True)
    note = {"head": str(head), "weights": weights_sum(head)}
    assert read_config(tmp_path / "two" / "head").trained["init"] == note  # type: ignore[index]
    assert json.loads((tmp_path / "two" / "train.json").read_text())["init"] == note
    again = prepare(second, DATA, tmp_path / "two", init=head)
    assert again.notices()[0].startswith(f"the run in {tmp_path / 'two'} goes on from its step 6; {head} is what it")
    again.run(tmp_path / "two", quiet=True)
    with pytest.raises(ValueError, match=r"other settings \(init in train.json\)"):
        prepare(second, DATA, tmp_path / "two").run(tmp_path / "two", quiet=True)


def test_a_head_of_another_method_or_shape_is_no_start(tiny_recipe: Recipe, tmp_path: Path, llava: Path) -> None:
    trained(prepare(tiny_recipe, DATA, tmp_path / "one"), tmp_path / "one")
    head = tmp_path / "one" / "head"

    def refused(message: str, recipe: Recipe, init: Path | str = head) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            prepare(recipe, DATA, tmp_path / "two", init=init)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "two").exists()

    refused("is a head of lens, and lisa is trained here; give a head of lisa", replace(tiny_recipe, method=LISA))
    other = replace(tiny_recipe, backbone=str(shutil.copytree(llava, tmp_path / "other")))
    refused(rf"is a head for the MLLM {llava}, and {tmp_path / 'other'} is given here; train on the same one", other)
    wider = replace(tiny_recipe, method=replace(SMALL, descriptor_width=32, threshold=0.5))
    refused(r"has another shape \(.*settings that it was trained with: .*descriptor_width=16", wider)
    refused("reads the MLLM at layer 4, and layer 2 is given here; give --layer 4", replace(tiny_recipe, layer=2))
    with pytest.raises(CheckpointError, match=f"{tmp_path} holds no config.json"):
        prepare(tiny_recipe, DATA, tmp_path / "two", init=tmp_path)


@dataclass(frozen=True)
class Drawn:
    """An `Example` that knows where it comes from."""

    origin: str
    image: int
    questions: tuple[int, ...] = ()
    grid: tuple[int, int] = (1, 1)

    def totals(self) -> Totals:
        return Totals(1, 1, 1)

    @staticmethod
    def batch(examples: Sequence[Example], device: torch.device | str = "cpu") -> Batch:
        raise NotImplementedError


class EvenImages(Cache):
    """A cache of the images with even numbers, of two questions each."""

    def __init__(self) -> None:
        pass

    def image(self, index: int) -> int | None:
        return None if index % 2 else index // 2

    def questions(self, image: int) -> int:
        return 2

    def example(self, image: int, questions: Sequence[int], number: int = 0) -> Drawn:  # type: ignore[override]
        return Drawn("cached", 2 * image, tuple(questions))


class Live(MixtureStream):
    def example(self, number: int) -> Drawn:
        return Drawn("live", number)

    def examples(self, numbers: Iterable[int]) -> Iterator[Drawn]:
        return map(self.example, numbers)


def test_a_draw_comes_from_the_cache_that_has_its_image() -> None:
    """What its cache leaves out, and the other datasets, are read live."""
    sources = (SamplingSource("a", 9, lambda image: 2), SamplingSource("b", 9, lambda image: 2))
    mixed = Mixed.__new__(Mixed)
    mixed.mixture = Mixture(sources, {"a": 1, "b": 1}, seed=3, queries=1)
    stream = PartlyCachedStream(Live(mixed, lambda sample, number: Drawn("live", number), {}), {1: EvenImages()})
    examples = [stream.example(number) for number in range(40)]
    for number, example in enumerate(examples):
        draw = mixed.mixture.draw(number)
        stored = draw.source == 1 and draw.image % 2 == 0
        assert example == (Drawn("cached", draw.image, draw.questions) if stored else Drawn("live", number))
    assert list(stream.examples(range(40))) == examples
    assert {example.origin for example in examples if isinstance(example, Drawn)} == {"cached", "live"}


def test_the_quick_mixture_is_small_and_read_once(tiny_recipe: Recipe, tmp_path: Path) -> None:
    data = f"quick:root={write_lisa(tmp_path / 'data')},held_out=no,limit=1"
    run = prepare(tiny_recipe, data, tmp_path / "run")
    assert isinstance(run.stream, SampledStream)
    assert [len(source) for source in run.stream.sources if isinstance(source, Cache)] == [1] * 4
    mixture = run.stream.sampler
    assert isinstance(mixture, Mixture)
    assert mixture.rates == {"refer_seg": 9, "reason_seg": 1}
    assert trained(run, tmp_path / "run")
    assert isinstance(prepare(tiny_recipe, data, tmp_path / "live", live=True).stream, MixtureStream)
    with pytest.raises(ValueError, match="limit=0; it must be at least 1"):
        prepare(tiny_recipe, data.replace("limit=1", "limit=0"), tmp_path / "none")


def test_a_mixture_that_processes_read_ahead_trains_the_same_head(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Bit for bit, also when the run goes on from a checkpoint."""
    data = f"lisa:root={write_lisa(tmp_path / 'data')}"
    recipe = replace(tiny_recipe, training=replace(tiny_recipe.training, save_every=2))
    here = trained(prepare(recipe, data, tmp_path / "here", readers=0), tmp_path / "here")
    ahead = trained(prepare(recipe, data, tmp_path / "ahead", readers=2), tmp_path / "ahead")
    shutil.rmtree(tmp_path / "ahead" / "step_4")
    again = trained(prepare(recipe, data, tmp_path / "ahead", readers=1), tmp_path / "ahead")
    assert all(torch.equal(here[name], ahead[name]) and torch.equal(here[name], again[name]) for name in here)


@pytest.mark.slow
def test_cached_datasets_of_a_mixture_give_the_draws_of_all_live(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """The same images and questions in the same order, and the same features but for the order of sums."""
    data = f"lisa:root={write_lisa(tmp_path / 'data')},rates=1-3-0-3,prompt=none"
    live = prepare(tiny_recipe, data, tmp_path / "live").stream
    run = prepare(tiny_recipe, data, tmp_path / "part", cached="reasonseg,refcoco,ade20k")
    assert isinstance(live, MixtureStream)
    assert isinstance(run.stream, PartlyCachedStream)
    names = [live.mixed.datasets[at].name for at in run.stream.caches]
    assert names == ["ade20k train negatives=0.2", "refcoco train", "reasonseg train"]
    assert len(list((tmp_path / "part" / "features").iterdir())) == 3
    cached = 0
    for number in range(24):
        cached += live.mixed.mixture.place(number)[0] in run.stream.caches
        one, other = (stream.example(number) for stream in (live, run.stream))
        assert isinstance(one, Features)
        assert isinstance(other, Features)
        assert len(one.questions) == len(other.questions)
        for mine, theirs in zip(one.questions, other.questions, strict=True):
            assert torch.equal(mine.mask, theirs.mask)
            assert mine.present == theirs.present
            torch.testing.assert_close(mine.rows, theirs.rows, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.prefix, other.prefix, rtol=0, atol=1e-5)
    assert 4 < cached < 20
    again = prepare(tiny_recipe, data, tmp_path / "part", cached="ade20k,refcoco,reasonseg").stream
    assert again.fingerprint() == run.stream.fingerprint() != live.fingerprint()
    assert all(bool(tensor.isfinite().all()) for tensor in trained(run, tmp_path / "part").values())


def test_cached_datasets_are_named_as_the_mixture_has_them(tiny_recipe: Recipe, tmp_path: Path) -> None:
    data = f"lisa:root={write_lisa(tmp_path / 'data')}"
    with pytest.raises(ValueError, match=r"resonseg.*reasonseg"):
        prepare(tiny_recipe, data, tmp_path, cached="resonseg")
    with pytest.raises(ValueError, match="one dataset"):
        prepare(tiny_recipe, DATA, tmp_path, cached="world")
    with pytest.raises(ValueError, match="live"):
        prepare(tiny_recipe, data, tmp_path, live=True, cached="reasonseg")
    tuning = replace(tiny_recipe, method=LisaConfig())
    with pytest.raises(ValueError, match="no cache"):
        prepare(tuning, data, tmp_path, cached="reasonseg")


def test_large_pictures_of_a_mixture_are_reduced_to_what_the_parts_see(llava: Path, sam: Path, tmp_path: Path) -> None:
    parts = Parts.load(Origin(str(llava)), Origin(str(sam)))
    side = max(parts.backbone.image_size, parts.sam().image_size)
    assert parts.needed_side == side
    assert replace(parts, floors=16).needed_side is None, "targets in the authors' own steps"
    Image.fromarray(np.full((2 * side, 3 * side, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    box = Polygons.of([[side, side, 2 * side, side, 2 * side, 2 * side, side, 2 * side]])
    data = Records(
        "d", [ImageRecord("a", tmp_path / "a.jpg", "f", (QueryRecord("the box", box, "0"),))], trainable=True
    )
    mixed = Mixed([data], Mixture((SamplingSource("sem_seg", 1, data.count),), {"sem_seg": 1}))
    stream = frozen_stream(parts, mixed, "d", None, 0)
    assert isinstance(stream, MixtureStream)
    assert stream.mixed.sample(0).image.shape == (side, 3 * side // 2, 3)
    assert mixed.sample(0).image.shape == (2 * side, 3 * side, 3)
    ours, whole = stream.example(0), parts.read(mixed.sample(0))
    assert isinstance(ours, Features)
    assert torch.equal(ours.questions[0].mask, whole.questions[0].mask)
    torch.testing.assert_close(ours.prefix, whole.prefix, rtol=1e-3, atol=1e-3)
    assert stream.fingerprint() != replace(stream, mixed=mixed).fingerprint()
