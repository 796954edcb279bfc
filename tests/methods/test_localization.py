"""Masks from attention heads alone: which heads, which clicks, which masks, and the same through every surface."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from command import Run
from seglens.backbones.head_choice import KNOWN, HeadChoice, HeadChoiceError, known_choice
from seglens.checkpoints.config import read_config
from seglens.core.types import Embedding, HeadMaps, MethodOutput, Prompt
from seglens.data.world import WorldData
from seglens.evaluation.evaluate import run
from seglens.evaluation.head_probe import find_heads, separated, separation
from seglens.inference.segmenter import Segmenter
from seglens.methods import LocalizationConfig, method_settings
from seglens.methods.attention_maps import blurred, elbow, peak_box
from seglens.methods.localization import Localization
from seglens.methods.mask_choice import centres
from seglens.methods.query_words import WordReader
from seglens.serving.http.settings import Settings

SIDE, GRID = 48, 12
EMBEDDING = Embedding(torch.zeros(1, 4, 3, 3))
PARTS = ("embedded/mllm", "embedded/sam")


class Discs:
    """A mask decoder that draws, for a click, the disc that it lies in, if in any, with sharp edges; and for a box, the
    box."""

    width, mask_side = 4, SIDE

    def __init__(self, *discs: tuple[float, float, float]):  # x, y, radius on the canvas
        self.discs, self.batch_sizes = discs, list[int]()

    def answer(self, embedding: Embedding, prompts: Sequence[Prompt]) -> Tensor:
        self.batch_sizes.append(len(prompts))
        return torch.stack([20 * (self.drawn(prompt) - 0.5) for prompt in prompts])

    def drawn(self, prompt: Prompt) -> Tensor:
        if prompt.box is None:
            return self.at(*prompt.points[0].tolist())
        assert not len(prompt.points)
        centre = (torch.arange(SIDE) + 0.5) / SIDE
        x, y = ((centre > prompt.box[k]) & (centre < prompt.box[k + 2]) for k in (0, 1))
        return (y[:, None] & x[None]).float()

    def at(self, x: float, y: float) -> Tensor:
        centre = (torch.arange(SIDE) + 0.5) / SIDE
        for cx, cy, radius in self.discs:
            if (x - cx) ** 2 + (y - cy) ** 2 <= radius**2:
                return ((centre[None] - cx) ** 2 + (centre[:, None] - cy) ** 2 <= radius**2).float()
        return torch.zeros(SIDE, SIDE)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Heads:
    """A reader of no MLLM."""

    heads, count = 4, 5

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def spot(x: float, y: float, width: float = 0.07, strength: float = 1.0) -> Tensor:
    """A spot of attention on the canvas, with a sum of `strength`."""
    centre = (torch.arange(GRID) + 0.5) / GRID
    bump = (-((centre[None] - x) ** 2 + (centre[:, None] - y) ** 2) / (2 * width**2)).exp()
    return strength * bump / bump.sum()


def maps(*spots: Tensor, inside: Tensor | None = None, several: bool = False, part: bool = False) -> HeadMaps:
    """The localization heads (2, 1), (3, 0) and (3, 2) attend to the spots, the others evenly to the image, or away."""
    whole = torch.full((1, 5, 4, len(spots), GRID, GRID), 0.05 / GRID**2)
    whole[:, 2:, 3] = 0.6 / GRID**2  # attends to the image, evenly
    for layer, head in ((2, 1), (3, 0), (3, 2)):
        whole[0, layer, head] = torch.stack(spots)
    everywhere = torch.ones(1, GRID, GRID, dtype=torch.bool)
    words = (torch.full((1, len(spots)), word) for word in (several, part))
    return HeadMaps(whole, everywhere if inside is None else inside, *words)


def decode(read: HeadMaps, decoder: Discs, **settings: Any) -> MethodOutput:
    return Localization(LocalizationConfig(**settings), Heads(), decoder).decode(read, EMBEDDING)


LEFT, RIGHT = (0.25, 0.3, 0.15), (0.75, 0.6, 0.15)
NAMED_HEADS = {"heads": ((2, 1), (3, 0), (3, 2)), "mass": 0.4}


@pytest.mark.parametrize("settings", [NAMED_HEADS, {}])
def test_the_mask_covers_what_the_heads_attend_to(settings: dict[str, Any]) -> None:
    """Whether the heads are named, or chosen by their attention on the image and its low entropy."""
    decoder = Discs(LEFT, RIGHT)
    output = decode(maps(spot(*LEFT[:2], strength=0.9), spot(*RIGHT[:2], strength=0.8)), decoder, **settings)
    for q, disc in enumerate((LEFT, RIGHT)):
        assert torch.equal(output.mask_logits[0, q] > 0, decoder.at(*disc[:2]) > 0)
        assert output.keypoints is not None
        assert (output.keypoints.points[0, q, 0] - torch.tensor(disc[:2])).abs().max() < 0.03
    assert output.heat_map is not None
    assert output.heat_map.shape == (1, 2, GRID, GRID)


def test_things_are_joined_where_the_words_name_several() -> None:
    """And where the attention hardly distinguishes two, whatever the words."""
    decoder = Discs(LEFT, RIGHT, (0.25, 0.8, 0.1))
    both = 0.5 * spot(*LEFT[:2]) + 0.3 * spot(*RIGHT[:2]) + 0.02 * spot(0.25, 0.8)
    left, union = decoder.at(*LEFT[:2]) > 0, (decoder.at(*LEFT[:2]) + decoder.at(*RIGHT[:2])) > 0
    for several, expected in ((True, union), (False, left)):
        drawn = decode(maps(both, several=several), decoder, **NAMED_HEADS).mask_logits[0, 0] > 0
        assert torch.equal(drawn, expected)
    alike = 0.5 * spot(*LEFT[:2]) + 0.48 * spot(*RIGHT[:2])
    assert torch.equal(decode(maps(alike), decoder, **NAMED_HEADS).mask_logits[0, 0] > 0, union)
    alone = decode(maps(alike), decoder, **NAMED_HEADS, join=(1.0, 1.0)).mask_logits[0, 0] > 0
    assert torch.equal(alone, left)


def test_the_chosen_mask_is_the_one_that_all_heads_agree_with() -> None:
    """Two heads see a little more on the right, and the third nothing: the left one is chosen."""
    read = maps(0.5 * spot(*LEFT[:2]) + 0.55 * spot(*RIGHT[:2]))
    read.maps[0, 3, 2] = 0.5 * spot(*LEFT[:2]) + 0.1 * spot(*RIGHT[:2])
    decoder = Discs(LEFT, RIGHT)
    drawn = decode(read, decoder, **NAMED_HEADS).mask_logits[0, 0] > 0
    assert torch.equal(drawn, decoder.at(*LEFT[:2]) > 0)


def test_a_mask_is_drawn_again_from_its_centre() -> None:
    class Careful(Discs):
        """Draws a part of the disc for a click beside its centre."""

        def at(self, x: float, y: float) -> Tensor:
            near = (x - LEFT[0]) ** 2 + (y - LEFT[1]) ** 2 < 0.04**2
            return super().at(x, y) * (1.0 if near else (torch.arange(SIDE) % 2)[:, None])

    decoder = Careful(LEFT)
    output = decode(maps(spot(LEFT[0] + 0.06, LEFT[1] + 0.06)), decoder, **NAMED_HEADS)
    assert torch.equal(output.mask_logits[0, 0] > 0, Discs(LEFT).at(*LEFT[:2]) > 0)
    assert decoder.batch_sizes == [1, 1]


def test_centres_lie_in_their_masks() -> None:
    masks = torch.zeros(2, 9, 9, dtype=torch.bool)
    masks[0, 3:6, 4:8] = True  # rows 3 to 5, columns 4 to 7
    masks[1, :, 0] = masks[1, :, 8] = masks[1, 0] = True  # an arch, whose centre of gravity is outside
    assert centres(masks)[0].tolist() in ([pytest.approx(x / 9), pytest.approx(4.5 / 9)] for x in (5.5, 6.5))
    x, y = (centres(masks)[1] * 9).long().tolist()
    assert masks[1, y, x]


def test_a_part_is_the_region_around_the_peak() -> None:
    """A click would draw the whole thing."""
    decoder = Discs((0.5, 0.5, 0.4))
    read = maps(0.8 * spot(0.375, 0.375, width=0.06) + 0.1 * spot(0.8, 0.8), part=True)
    drawn = decode(read, decoder, **NAMED_HEADS).mask_logits[0, 0] > 0
    y, x = (torch.where(drawn.any(axis))[0] for axis in (1, 0))
    assert decoder.batch_sizes == [1]
    for side in (y, x):
        assert (side.min() + side.max() + 1) / 2 / SIDE == pytest.approx(0.375, abs=0.02)
        assert len(side) / SIDE == pytest.approx(0.19, abs=0.06)  # 2.7 deviations: e^(-1.35^2 / 2) = .4
    assert drawn.sum() == len(y) * len(x)


def test_the_box_of_a_peak() -> None:
    one = torch.zeros(1, 6, 12)
    one[0, 1, 2:5], one[0, 2, 5], one[0, 5, 10] = 1.0, 0.9, 0.9  # a bar, a cell across its corner, and one apart
    assert peak_box(one, 0.5)[0].tolist() == pytest.approx([2 / 12, 1 / 6, 6 / 12, 3 / 6], abs=0.03)


def test_the_words_of_a_question_decide_whether_it_names_several_things() -> None:
    class Reader(Heads):
        def read(self, image: Any, questions: Sequence[str]) -> HeadMaps:
            return maps(*[spot(0.5, 0.5)] * len(questions))

    questions = ["Both cups.", "all the dogs", "the 3 lamps", "the small tower", "the 1 lamp", "show me every hammer"]
    questions += ["the cups", "the things?", "the bus", "the glass of milk", "what runs in the forest?"]
    read = WordReader(Reader()).read(None, questions)
    assert read.several is not None
    assert read.several.tolist() == [[True, True, True, False, False, True, True, True, False, False, False]]
    parts = ["The handle of the cup.", "the dog's ear", "show me its wings!", "the part that rolls", "the left eye"]
    parts += ["where is the big door of this old house?", "the wheel"]
    things = ["the thing left of the cup", "a glass of milk", "the largest of the cups", "the cat with a long tail"]
    things += ["the bird on the roof", "what covers your chest?", "a picture of the dog", "the man who has a red nose"]
    read = WordReader(Reader()).read(None, [*parts, *things])
    assert read.part is not None
    assert read.part.tolist() == [[True] * len(parts) + [False] * len(things)]


def test_presence_follows_the_odds_of_the_mass() -> None:
    logits = decode(
        maps(spot(0.3, 0.3, strength=0.9), spot(0.3, 0.3, strength=0.4), spot(0.3, 0.3, strength=0.1)),
        Discs(LEFT),
        **NAMED_HEADS,
    ).presence_logits
    assert logits is not None
    likely = logits[0].sigmoid()
    assert likely[1] == pytest.approx(0.5, abs=1e-3)
    assert likely[0] == pytest.approx(1 / (1 + (0.1 / 0.9) / (0.6 / 0.4)), abs=1e-3)
    assert likely[2] < 0.2
    assert decode(maps(spot(0.3, 0.3)), Discs(LEFT)).presence_logits is None


def test_presence_may_be_that_of_another_head_than_those_of_the_map() -> None:
    read = maps(spot(*LEFT[:2], strength=0.2))
    one = decode(read, Discs(LEFT), heads=((2, 1), (3, 0)), presence_head=(4, 3), mass=0.6).presence_logits
    assert one is not None
    assert one[0, 0].item() == pytest.approx(0.0, abs=1e-3)  # (4, 3) pays .6 to the image


def test_padding_is_never_clicked() -> None:
    inside = torch.ones(1, GRID, GRID, dtype=torch.bool)
    inside[:, 7:] = False
    read = maps(0.3 * spot(*LEFT[:2]) + 0.6 * spot(0.6, 0.9), inside=inside)
    output = decode(read, Discs(LEFT, (0.6, 0.9, 0.1)), **NAMED_HEADS)
    assert output.keypoints is not None
    assert output.heat_map is not None
    assert (output.keypoints.points[output.keypoints.keep][:, 1] < 7.5 / GRID).all()
    assert not output.heat_map[0, 0, 7:].any()
    assert torch.equal(output.mask_logits[0, 0] > 0, Discs(LEFT).at(*LEFT[:2]) > 0)


def test_clicks_are_decoded_in_small_batches() -> None:
    decoder = Discs(LEFT)
    output = decode(maps(*[0.5 * spot(*LEFT[:2]) + 0.4 * spot(*RIGHT[:2])] * 20), decoder, **NAMED_HEADS)
    assert output.keypoints is not None
    assert sum(decoder.batch_sizes) == output.keypoints.keep.sum() + 20  # and one at the centre of each chosen mask
    assert max(decoder.batch_sizes) <= 16


def test_a_map_of_zeros_gives_an_empty_mask() -> None:
    output = decode(maps(torch.zeros(GRID, GRID)), Discs(LEFT), **NAMED_HEADS)
    assert not (output.mask_logits > 0).any()
    assert output.mask_logits.isfinite().all()


def test_elbow_and_blur() -> None:
    assert elbow(torch.tensor([0.01, 0.9, 0.02, 0.03, 0.8])).item() == pytest.approx(0.03)
    smooth = blurred(spot(0.5, 0.5, width=0.01)[None, None], 1.0)
    assert smooth.sum().item() == pytest.approx(1.0, abs=1e-2)
    ratio = (smooth[0, 0, 5, 5] / smooth[0, 0, 5, 3]).item()  # a spot on the corner of four cells
    assert ratio == pytest.approx((np.exp(0) + np.exp(-0.5)) / (np.exp(-2) + np.exp(-4.5)), rel=0.02)
    assert torch.equal(blurred(smooth, 0.0), smooth)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"heads": ((2, 9),)}, "a layer of this MLLM has 4 heads"),
        ({"heads": ((2, 1), (2, 1))}, "each once"),
        ({"heads": ((2, 1),), "presence_head": (3, 7)}, "a layer of this MLLM has 4 heads"),
        ({"heads": ((2, 1),), "presence_head": (-3, 0)}, "from 0"),
        ({"part": 1.5}, "from 0 to 1"),
        ({"first_layer": 5}, "load the MLLM with a higher layer"),
        ({"clicks": 0}, "above 0"),
        ({"join": (0.5, 2.0)}, "two numbers from 0 to 1"),
        ({"threshold": (0.2, 2.0)}, "two numbers from 0 to 1"),
        ({"mass": 1.0}, "between 0 and 1"),
    ],
)
def test_invalid_settings_are_refused_by_name(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Localization(LocalizationConfig(**settings), Heads(), Discs())


def test_settings_that_an_earlier_version_saved_mean_what_they_meant() -> None:
    saved = {"join": 0.35, "overlap": 0.15, "threshold": 0.25, "clicks": 4}
    expected = LocalizationConfig(join=(0.35, 0.35), overlap=(0.15, 0.15), threshold=(0.25, 0.25), clicks=4)
    assert method_settings("localization", saved) == expected


# ------------------------------------------------------------------ with the package's own MLLM and SAM


@pytest.fixture(scope="module")
def untrained() -> Segmenter:
    return Segmenter.from_parts(*PARTS)


def test_masks_without_training(untrained: Segmenter) -> None:
    """Of another seed than those that the method was measured on; parts of things are where it is weak."""
    records = run(untrained, WorldData(n=12, seed=31))
    whole = [r for r in records if r.present and "part" not in r.kind]
    assert np.mean([r.drawn_intersection / r.drawn_union for r in whole]) > 0.65  # measured: .723
    absent, present = ([r.found for r in records if r.present is there] for there in (False, True))
    assert np.mean(absent) < 0.15  # measured: 0
    assert np.mean(present) > 0.85  # measured: .94


def test_only_the_layers_up_to_the_last_head_run(untrained: Segmenter) -> None:
    assert untrained.reader.count == max(layer for layer, _ in untrained.method.config.heads) + 1 == 4
    alone = Segmenter.from_parts(*PARTS, segmentation_only=True)
    assert not alone.backbone.can_chat
    sample = WorldData(n=1, seed=31)[0]
    queries = [target.query for target in sample.targets]
    for one, other in zip(untrained.segment(sample.image, queries), alone.segment(sample.image, queries), strict=True):
        assert np.array_equal(one.mask, other.mask)


def test_heads_chosen_for_each_query_give_no_presence() -> None:
    chosen = Segmenter.from_parts(*PARTS, heads="choose")
    sample = WorldData(n=1, seed=31)[0]
    for prediction in chosen.segment(sample.image, [target.query for target in sample.targets]):
        assert prediction.presence is None
        assert prediction.found
    assert chosen.config.presence == "untrained"


def test_a_pickled_segmenter_is_loaded_from_its_parts(untrained: Segmenter) -> None:
    again = pickle.loads(pickle.dumps(untrained))
    sample = WorldData(n=1, seed=31)[0]
    query = sample.targets[0].query
    assert np.array_equal(again.segment(sample.image, query).mask, untrained.segment(sample.image, query).mask)
    assert again.config == untrained.config


def test_a_saved_head_gives_the_same_masks(untrained: Segmenter, tmp_path: Path) -> None:
    untrained.save_pretrained(tmp_path / "head")
    again = Segmenter.from_pretrained(tmp_path / "head")
    assert (again.config, again.method.config) == (read_config(tmp_path / "head"), untrained.method.config)
    sample = WorldData(n=1, seed=31)[0]
    query = sample.targets[0].query
    assert np.array_equal(again.segment(sample.image, query).mask, untrained.segment(sample.image, query).mask)


# ------------------------------------------------------------------ files of heads


def test_a_file_of_heads_fits_only_its_mllm(tmp_path: Path) -> None:
    file = tmp_path / "heads.json"
    choice = HeadChoice("embedded/mllm", None, ((3, 1),), 0.3)
    choice.save(file)
    assert HeadChoice.read(file) == choice
    assert Segmenter.from_parts(*PARTS, heads=file).method.config == LocalizationConfig(((3, 1),), mass=0.3)
    with pytest.raises(HeadChoiceError, match=r"those of embedded/mllm, and the MLLM is embedded/internvl"):
        Segmenter.from_parts("embedded/internvl", PARTS[1], heads=file)
    other = replace(choice, presence_head=(5, 2))  # in a higher layer than the map's
    other.save(file)
    assert HeadChoice.read(file) == other
    segmenter = Segmenter.from_parts(*PARTS, heads=file)
    assert segmenter.method.config == LocalizationConfig(((3, 1),), (5, 2), mass=0.3)
    assert segmenter.reader.count == 6
    with pytest.raises(HeadChoiceError, match="those of embedded/mllm"):
        Segmenter.from_parts("embedded/internvl", PARTS[1], heads=file)
    revised = replace(choice, revision="a" * 40)
    assert revised.fits("embedded/mllm", None)
    assert not revised.fits("embedded/mllm", "b" * 40)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "seglens-localization-heads", "version": 1}'])
def test_another_file_than_one_of_heads_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "heads.json"
    file.write_text(text)
    with pytest.raises(HeadChoiceError, match=r"no file of localization heads; give one that"):
        HeadChoice.read(file)


def test_a_file_with_a_wrong_entry_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "heads.json"
    HeadChoice("embedded/mllm", None, ((3, 1),), 0.3).save(file)
    content = json.loads(file.read_text())
    for wrong in (
        {"heads": []},
        {"heads": [[1, "a"]]},
        {"heads": [[-1, 2]]},
        {"mass": 2.0},
        {"presence_head": [3]},
        {"presence_head": [3, -1]},
        {"extra": 1},
        {"backbone": 3},
    ):
        file.write_text(json.dumps({**content, **wrong}))
        with pytest.raises(HeadChoiceError):
            HeadChoice.read(file)
    with pytest.raises(HeadChoiceError, match="cannot be read"):
        HeadChoice.read(tmp_path / "none.json")


def test_the_files_in_the_package_are_valid() -> None:
    files = sorted(KNOWN.glob("*.json"))
    assert files
    for file in files:
        choice = HeadChoice.read(file)
        assert known_choice(choice.backbone, choice.revision) == choice
    assert known_choice("org/other") is None


# ------------------------------------------------------------------ commands

BOTH = ("--backbone", PARTS[0], "--decoder", PARTS[1])


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(WorldData(n=1, seed=31)[0].image).save(path)
    return path


def test_segment_by_the_parts_names(seglens: Run, photo: Path, tmp_path: Path, untrained: Segmenter) -> None:
    query = WorldData(n=1, seed=31)[0].targets[0].query
    code, out, err = seglens("segment", photo, query, *BOTH, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    line = json.loads(out)
    assert line["found"]
    assert line["presence"] == pytest.approx(untrained.segment(photo, query).presence, abs=1e-4)
    assert len(line["files"]) == 2


def test_eval_by_the_parts_names(seglens: Run) -> None:
    code, out, err = seglens("eval", *BOTH, "--data", "world:n=2,seed=31", "--json")
    assert code == 0, err
    assert json.loads(out)["model"] == "embedded/mllm + embedded/sam"
    assert "expect masks also for what is not in it" not in err
    code, _, err = seglens("eval", *BOTH, "--heads", "choose", "--data", "world:n=1,seed=31")
    assert code == 0
    assert "expect masks also for what is not in it" in err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--backbone", "embedded/mllm"), "without --decoder; name the SAM"),
        (("--decoder", "embedded/sam"), "got --decoder without --backbone"),
        (("--heads", "choose"), "got --heads without --backbone"),
        ((*BOTH, "--model", "embedded"), "--model embedded and --backbone embedded/mllm; give --model for"),
        ((*BOTH, "--heads", "none.json"), "none.json cannot be read"),
    ],
)
@pytest.mark.parametrize("command", ["segment", "eval", "chat", "refine"])
def test_options_that_exclude_each_other_are_refused(
    command: str, words: tuple[str, ...], why: str, seglens: Run, photo: Path, tmp_path: Path
) -> None:
    arguments = {
        "segment": (photo, "the cup", "--out", tmp_path),
        "chat": (photo, "--out", tmp_path),
        "refine": (photo, "the cup", "--out", tmp_path),
        "eval": ("--data", "world:n=1"),
    }
    code, _, err = seglens(command, *arguments[command], *words)
    assert code == 2
    assert why in err
    assert len(err.strip().splitlines()) == 1


def test_chat_by_the_parts_names(seglens: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = WorldData(n=1, seed=31)[0].targets[0].query
    monkeypatch.setattr("sys.stdin", io.StringIO(f"segment {query}\n/quit\n"))
    code, out, err = seglens("chat", photo, *BOTH, "--out", tmp_path, "--json")
    assert code == 0, err
    assert list(tmp_path.glob("*.png")), out


def test_serve_by_the_parts_names(monkeypatch: pytest.MonkeyPatch, seglens: Run) -> None:
    settings = Settings(backbone="embedded/mllm", decoder="embedded/sam")
    assert settings.model_name == "embedded/mllm + embedded/sam"
    code, _, err = seglens("serve", *BOTH, "--model", "embedded")
    assert code == 2
    assert "--model embedded and --backbone" in err


# ------------------------------------------------------------------ finding heads


def test_probe_chooses_heads_without_masks(seglens: Run, tmp_path: Path) -> None:
    """By the choice of most queries, with the mass that separates the phrases of an image from those of others."""
    file = tmp_path / "heads.json"
    words = ("probe", "--backbone", PARTS[0], "--data", "world:n=10,seed=7,split=train", "--heads", file)
    code, out, err = seglens(*words)
    assert code == 0, err
    choice = HeadChoice.read(file)
    assert set(choice.heads) == {(2, 0), (3, 0), (3, 3)}  # those that masks choose, too
    assert choice.presence_head == (2, 0)  # that separates what is there from what is not by masks, too
    assert choice.mass is not None
    assert 0.1 < choice.mass < 0.8
    assert choice.found["images"] == 10
    assert "layer 2, head 0" in out
    assert Segmenter.from_parts(*PARTS, heads=file).config.presence == "trained"
    code, _, err = seglens(*words)
    assert code == 2
    assert "heads.json" in err


def test_a_mass_that_does_not_separate_is_not_reported() -> None:
    mass = torch.tensor([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    own = torch.tensor([False, False, True, False, True, True])
    even, present_kept, refused = separated(mass, own)
    assert (even, present_kept, refused) == (pytest.approx(0.35), pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert separated(mass, torch.ones(6, dtype=torch.bool)) == (0.5, 1.0, 0.0)
    assert separated(torch.full((6,), 0.3), own)[1:] == (0.0, 1.0)


def test_the_head_of_presence_separates_best() -> None:
    own = torch.tensor([True, True, False, False])
    mass = torch.tensor([[0.9, 0.4, 0.1], [0.3, 0.3, 0.2], [0.5, 0.1, 0.3], [0.1, 0.2, 0.2]])
    assert separation(mass, own).tolist() == pytest.approx([0.75, 1.0, 0.125])
    assert not separation(mass, torch.ones(4, dtype=torch.bool)).any()


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 images"):
        find_heads(Segmenter.from_parts(*PARTS).backbone, WorldData(n=1, seed=7))
