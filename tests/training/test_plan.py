"""`seglens train --plan`: what it prints is what a training then needs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from command import Run
from seglens.data.sampling import Mixture, SamplingSource
from seglens.features.cache import Cache
from seglens.features.frozen import Features
from seglens.methods.tuned import TunedMethod
from seglens.training import plan as planning
from seglens.training.account import Account
from seglens.training.machine import PUBLISHED, Machine, published
from seglens.training.plan import Need, Plan
from seglens.training.planned_data import PUBLISHED_IMAGES, PlannedData, _mixture, plan_data
from seglens.training.planned_models import PlannedModels
from seglens.training.planned_tuned import ANSWER
from seglens.training.presets import Recipe, adjusted, recipe
from seglens.training.setup import prepare

DATA = "world:n=6,seed=3,split=train,queries=3"
PARTS = ("--backbone", "embedded/mllm", "--decoder", "embedded/sam")
HERE = Machine("a test", 1e12, 1e12, 1e12, "stated", cuda=False)


def embedded(*settings: str) -> Recipe:
    small = adjusted(recipe("quick"), ["steps=3", "images=4", "micro=2", "warmup=1", *settings])
    return replace(small, backbone="embedded/mllm", decoder="embedded/sam", layer=None)


def planned(of: Recipe, data: PlannedData, out: Path, tokens: tuple[int, int] | None = None) -> Plan:
    models = PlannedModels.of(of, None, half=False)
    return Plan(replace(models, tokens=tokens) if tokens else models, data, HERE, 1, out)


def test_what_does_not_fit_is_stated_with_what_to_change() -> None:
    assert str(Need("disk", 2e9, 3e9, "give another disk")) == "disk: 2.00 GB of 3.00 GB free"
    lacking = Need("disk", 2e9, 1e9, "give another disk")
    assert not lacking.fits
    assert str(lacking) == "disk: 2.00 GB of 1.00 GB free: DOES NOT FIT; give another disk"


def test_heads_of_the_layer_that_is_read_are_planned() -> None:
    """Copied layers count from that layer on."""
    heads = ((2, 0), (3, 3))
    learned = replace(embedded().method, head_weights="learned", heads=heads)
    of = replace(embedded(), method=learned, layer=2)
    mean = PlannedModels.of(replace(of, method=replace(learned, head_weights="mean", heads=())), None, half=False)
    assert PlannedModels.of(of, None, half=False).trained == mean.trained + 2 * 4


def test_gpus_are_named() -> None:
    assert published("rtx-4090").memory < 24 * 2**30
    assert "assumed" in published("a100-80").source
    assert all(published(name).cuda for name in PUBLISHED)
    with pytest.raises(ValueError, match="rtx-4090"):
        published("rtx-4091")


def test_planned_draws_are_those_of_the_mixture() -> None:
    counts = [(2.0, 2), (4.0, 4), (1.0, 1)]
    images = zip(("a", "a", "b"), (7, 900, 30), (1, 2, 1), counts, strict=True)
    sources = tuple(SamplingSource(group, n, lambda image, q=q: int(q[0]), w) for group, n, w, q in images)
    mixture = Mixture(sources, {"a": 3, "b": 1}, queries=3)
    data = _mixture(mixture, ["one", "two", "three"], counts, 4000.0, (0,), None)
    drawn = [mixture.draw(number) for number in range(4000)]
    sampled = Counter(draw.source for draw in drawn)
    assert [one.draws for one in data.datasets] == pytest.approx([sampled[at] for at in range(3)], rel=0.1)
    assert data.questions == pytest.approx(sum(len(draw.questions) for draw in drawn) / 4000, rel=0.02)
    assert data.live_draws == pytest.approx(3000, rel=1e-9)
    assert [one.cached for one in data.datasets] == [True, False, False]


def test_a_mixture_whose_files_are_not_here_is_planned_by_published_numbers(tmp_path: Path) -> None:
    data = plan_data(f"lisa:root={tmp_path}", recipe("quick"), None, False, "reasonseg", measure=True)
    names = [one.name for one in data.datasets]
    assert names == ["refclef", "refcoco", "refcoco+", "refcocog", "reasonseg"]
    assert [one.images for one in data.datasets] == [PUBLISHED_IMAGES[name] for name in names]
    assert [one.name for one in data.datasets if one.cached] == ["reasonseg"]
    assert sum(one.draws for one in data.datasets) == pytest.approx(24_000)
    assert data.datasets[-1].per_image == pytest.approx(6000 / 239)
    assert data.read_seconds is None
    assert "not complete here" in data.assumed[0]
    with pytest.raises(ValueError, match="reasonseg"):
        plan_data(f"lisa:root={tmp_path}", recipe("quick"), None, False, "resonseg", measure=False)


@pytest.mark.slow
def test_a_training_needs_what_was_planned(tmp_path: Path) -> None:
    """Counts exactly, bytes on disk to 3 %, memory in tensors to 10 %."""
    of, out = embedded(), tmp_path / "run"
    data = plan_data(DATA, of, None, False, None, measure=False)
    assert (data.datasets[0].images, data.datasets[0].draws) == (6, 12)
    first = planned(of, data, out)
    assert first.fits
    assert not out.exists()
    run = prepare(of, DATA, out)
    cache = next(iter((out / "features").iterdir()))
    source = Cache.open(cache)
    assert first.models.trained == sum(p.numel() for p in run.head.parameters() if p.requires_grad)
    account = Account()
    for tensor in (*run.head.parameters(), *run.head.buffers()):
        account.hold(tensor)
    with account:
        run.run(out, quiet=True)
    examples = [source.example(image, range(source.questions(image))) for image in range(len(source))]
    assert data.datasets[0].questions == sum(len(one.questions) for one in examples) / 6
    written = sum(path.stat().st_size for path in cache.rglob("shard-*.safetensors"))
    exact = planned(of, data, out, tokens=tokens(examples))
    assert exact.cache_bytes()["world"] == pytest.approx(written, rel=0.03)
    assert 1 <= first.cache_bytes()["world"] / written < 1.5  # with the numbers of tokens that are assumed
    folder = sum(path.stat().st_size for path in out.rglob("*.*") if cache not in path.parents)
    checkpoints = len(list(out.glob("step_*")))
    assert (3 * checkpoints + 1) * 4 * first.models.trained == pytest.approx(folder, rel=0.03)
    assert folder <= first.run_bytes()
    decoder = sum(p.nbytes for name, p in _decoder_weights(of).items() if "vision_encoder" not in name)
    assert exact.models.peak(2, 3, fused=False, passes=2).peak - decoder == pytest.approx(account.peak, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("method", "mllm"), [("lisa", "embedded/mllm"), ("self1e", "embedded/internvl")])
def test_a_method_that_tunes_needs_the_memory_that_was_planned(
    method: str, mllm: str, recompute: bool, tmp_path: Path
) -> None:
    """In tensors, to 10 %, with gradient checkpointing and without."""
    decoder = "embedded/sam" if method == "lisa" else None
    settings = ["steps=2", "images=4", "micro=2", "warmup=1", f"recompute={recompute}"]
    of = replace(adjusted(recipe("default", method), settings), backbone=mllm, decoder=decoder, layer=None)
    run = prepare(of, "world:n=4,seed=3,split=train,queries=3,negatives=0", tmp_path)
    assert isinstance(run.head, TunedMethod)
    reader: Any = run.head.mllm
    words = [len(answer.ids) for example in run.stream.examples(range(8)) for answer in example.answers]
    account = Account()
    for module in (run.head, reader.model.tuned.model):
        for tensor in (*module.parameters(), *module.buffers()):
            account.hold(tensor)
    if decoder:
        for name, weight in _decoder_weights(of).items():
            if "vision_encoder" not in name:
                account.now += weight.nbytes
    with account:
        run.run(tmp_path, quiet=True)
    places = len(of.method.templates().tokens)
    lengths = len(reader.tuned.reading.before()), max(words) - ANSWER - places
    models = replace(PlannedModels.of(of, None, half=False), tokens=lengths)
    assert models.trained == sum(p.numel() for p in run.head.parameters() if p.requires_grad)
    peak = models.peak(2, 3, fused=False, passes=2).peak
    assert peak == pytest.approx(account.peak, rel=0.1)


def tokens(examples: list[Features]) -> tuple[int, int]:
    """Before the image, and of a question on average."""
    lengths = [len(question.rows) for one in examples for question in one.questions]
    return len(examples[0].prefix) - len(examples[0].image_tokens), round(sum(lengths) / len(lengths))


def _decoder_weights(of: Recipe) -> dict:
    decoder = PlannedModels.of(of, None, half=False)._decoder()
    assert decoder is not None
    return dict(decoder.module.named_parameters())


@pytest.mark.slow
def test_the_command_writes_nothing_and_reports_by_its_exit_code(
    seglens: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    command = ("train", "--plan", *PARTS, "--data", DATA, "--out", out, "--set", "steps=9", "--no-measure", "--json")
    code, printed, err = seglens(*command)
    assert code == 0, err
    report = json.loads(printed)
    assert report["steps"] == 9
    assert report["fits"]
    assert report["hours"] is None
    assert report["downloads"] == {}
    assert [one["what"] for one in report["needs"]] == ["memory", "disk"]
    assert any("40 tokens before the image" in text for text in report["assumed"])
    monkeypatch.setattr(planning, "free_space", lambda folder: 1000)
    code, printed, _ = seglens(*command[:-1], "--gpu", "l4")
    assert code == 1
    assert "1.00 KB free: DOES NOT FIT; store with `seglens cache build --dtype int8`" in printed
    assert "GPU memory (l4)" in printed
    assert not out.exists()


def test_a_download_that_the_disk_has_no_room_for_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is named with its size, and counted against the disk of the hub's folder."""
    tuned = replace(recipe("default", "mllmseg"), backbone="embedded/internvl", decoder=None)
    plan = planned(tuned, PlannedData((), 1, 1.0, None), tmp_path)
    monkeypatch.setattr(PlannedModels, "downloads", lambda models: {"org/model": 5_000_000_000})
    monkeypatch.setattr(planning, "hub_folder", lambda: tmp_path / "hub")
    monkeypatch.setattr(planning, "free_space", lambda folder: 10**9 if folder.name == "hub" else 10**12)
    monkeypatch.setattr(Plan, "device_bytes", lambda plan, recompute=None: 1e9)
    monkeypatch.setattr(Plan, "step_seconds", None)
    short = [need for need in plan.needs if not need.fits]
    assert [str(need) for need in short] == [
        "disk for downloads: 5.00 GB of 1.00 GB free: DOES NOT FIT; set HF_HOME to a folder on another disk"
    ]
    assert not plan.fits
    assert "to download: org/model, about 5.00 GB" in list(plan.lines())
