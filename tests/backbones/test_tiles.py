"""A canvas in tiles: beside the families' own image processors and classes, and what reads them. What holds of one tile
too is asked in test_contract.py and test_tuned_reader.py.

Errors are relative to the largest value compared, as there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bare import Bare, error
from torch import Tensor

from features.cache.made_up import manifest_for, same
from seglens.backbones import AttentionReader, Backbone, draw_blueprint, load_backbone
from seglens.backbones.tiles import Tiling
from seglens.checkpoints.origin import embedded_folder
from seglens.core.geometry import Frame
from seglens.core.tuning_types import AnswerTemplates, Tuning
from seglens.core.types import Sample, Target
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder
from seglens.features.cache import Cache, build
from seglens.features.frozen import Features, extract
from tiny import EVERY, KINDS, TILED

QUESTIONS = ("the red cup", "dog")
EXACT = {"dtype": torch.float32, "attn_implementation": "eager"}
TOLERANCE = 5e-6
ROUNDED = 0.03  # the processors' overview is made of whole numbers from 0 to 255; ours is not rounded
CONFIGS = Path(__file__).parent / "configs"


@pytest.fixture(scope="module", params=TILED)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles") / request.param
    EVERY[request.param].save(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(folder, **{**TILED[folder.name].options, **EXACT})


@pytest.fixture(scope="module")
def bare(folder: Path) -> Bare:
    return Bare.load(folder, **EXACT)


@pytest.fixture(scope="module")
def picture(backbone: Backbone) -> np.ndarray:
    """Of the canvas's size, so that it is not scaled, and of middle tones, which no filter takes out of range."""
    side = backbone.image_size
    return np.random.default_rng(3).integers(64, 192, (side, side, 3), dtype=np.uint8)


def cells(backbone: Backbone, start: int) -> list[int]:
    """Where the token of every cell stands after `start` tokens of text, cell by cell."""
    tiling, places = backbone.tiling, []
    side = tiling.across * tiling.cells
    for row in range(side):
        for column in range(side):
            if tiling.newlines:
                places.append(tiling.cells**2 + row * (side + 1) + column)
            else:
                tile = row // tiling.cells * tiling.across + column // tiling.cells
                within = row % tiling.cells * tiling.cells + column % tiling.cells
                places.append(tile * tiling.cells**2 + within)
    return [start + place for place in places]


def test_four_tiles_and_an_overview(backbone: Backbone) -> None:
    one = load_backbone(backbone.name, **EXACT)
    assert one.tiling == Tiling(one.grid[0])
    assert backbone.image_size == 2 * one.image_size
    assert backbone.grid == (2 * one.grid[0], 2 * one.grid[1])
    assert backbone.tiling.parts == 5
    assert backbone.tiling.tokens == 5 * one.tiling.tokens + (backbone.grid[0] if backbone.tiling.newlines else 0)


def test_tiles_are_the_processors_own(backbone: Backbone, bare: Bare, picture: np.ndarray) -> None:
    """In its order; those of the picture are the same pixels, the overview but for rounding."""
    ours = backbone.tiling.cut(backbone.pixels(picture)[None])[0]
    theirs = torch.as_tensor(bare.inputs(picture, QUESTIONS[0])["pixel_values"])
    theirs = theirs[0] if theirs.ndim == 5 else theirs
    assert ours.shape == theirs.shape
    overview = 0 if backbone.tiling.newlines else 4
    for n, (part, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert error(part, expected) < (ROUNDED if n == overview else 1e-6)  # measured: .015 and 1.9e-7


@torch.no_grad()
def test_reading_equals_the_model_with_the_processors_inputs(
    backbone: Backbone, bare: Bare, picture: np.ndarray
) -> None:
    """All that transformers makes of a picture and a question: its tiles, its tokens, its newlines."""
    readout = backbone.read(backbone.open(picture), QUESTIONS)
    start = readout.prefix.shape[1]
    for q, question in enumerate(QUESTIONS):
        inputs = bare.inputs(picture, question)
        there = bare.model(**inputs, output_hidden_states=True).hidden_states[backbone.layer][0]
        assert error(readout.prefix[0], there[:start]) < ROUNDED  # measured: .020
        assert error(readout.question[0, q, : len(there) - start], there[start:]) < ROUNDED
        assert backbone.read_tokens(question, Frame(*picture.shape[:2])) == len(there)
        image = (inputs["input_ids"][0] == bare.model.config.image_token_id).nonzero()[:, 0].tolist()
        assert readout.image_tokens.tolist() == cells(backbone, image[0])
        assert start == image[-1] + 1


@torch.no_grad()
def test_attention_goes_to_the_cells(backbone: Backbone, bare: Bare, picture: np.ndarray) -> None:
    """Of the last token of the prompt, mean over heads, laid over the canvas."""
    maps = AttentionReader(backbone).maps(picture, QUESTIONS[:1])[:, 0]
    ids = bare.inputs(picture, QUESTIONS[0])["input_ids"]
    start = int((ids[0] == bare.model.config.image_token_id).nonzero()[0])
    attentions = bare.run(ids, bare.canvas(picture, backbone.image_size)).attentions
    expected = torch.stack([a[0, :, -1, cells(backbone, start)].mean(0) for a in attentions if a is not None])
    assert error(maps.flatten(1), expected) < TOLERANCE  # measured: 0


@torch.no_grad()
def test_a_mark_changes_its_cells(backbone: Backbone, picture: np.ndarray) -> None:
    """Of what the language model is given, within the tile: a mark in one changes no cell of another."""
    side, across = backbone.grid[0], backbone.tiling.across
    size = backbone.image_size // across

    def rows(image: np.ndarray) -> Tensor:
        rows = backbone.mllm.embed_image(image).rows[0]
        return rows[len(rows) - backbone.tiling.tokens + backbone.tiling.places].reshape(side, side, -1)

    still = rows(picture)
    for y in range(across):
        for x in range(across):
            marked = picture.copy()
            marked[y * size + 3 : y * size + 9, x * size + 3 : x * size + 9] ^= 255
            moved = (rows(marked) - still).abs().sum(-1)
            tile = torch.zeros(side, side, dtype=torch.bool)
            each = backbone.tiling.cells
            tile[y * each : (y + 1) * each, x * each : (x + 1) * each] = True
            assert (moved[tile] > 0).all()  # a vision tower sees all of its tile
            assert (moved[~tile] == 0).all()


def test_features_are_cached(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    """Of a wide and of a tall picture, the same bits, and in one batch."""
    random = np.random.default_rng(5)
    samples = []
    for height, width in ((40, 70), (90, 30)):
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        samples.append(
            Sample(f"{height}", image, tuple(Target(q, random.random((height, width)) < 0.4) for q in QUESTIONS))
        )
    build(samples, lambda sample: extract(sample, backbone, decoder), tmp_path, manifest_for(samples))
    cache, live = Cache(tmp_path, manifest_for(samples)), [extract(sample, backbone, decoder) for sample in samples]
    cached = [cache.example(n, (0, 1)) for n in range(2)]
    assert all(same(one, other) for one, other in zip(cached, live, strict=True))
    batch = Features.batch(cached)
    assert batch.inputs.grid == backbone.grid
    assert batch.truth.cells.shape[2:] == backbone.grid
    assert batch.inputs.image_tokens.tolist() == cells(backbone, batch.inputs.prefix.shape[1] - backbone.tiling.tokens)


def test_what_is_not_understood_is_refused_in_tiles() -> None:
    """By the whole picture, with or without an overview among the tiles."""
    backbone = load_backbone(embedded_folder("embedded/internvl"), image_size=512)
    adapted = backbone.adapt(Tuning(("[SEG]",)), AnswerTemplates(("[SEG]",), "{}", ("[SEG].",)))
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for image, familiar in ((WorldData(n=1, seed=5)[0].image, True), (noise, False)):
        assert backbone.open(image).familiar is familiar
        assert adapted.open(image).familiar is familiar


# ------------------------------------------------------------------ what cannot be had


def refused(folder: Path, size: int) -> str:
    with pytest.raises(ValueError, match=f"^image_size={size} cannot be had: a ") as caught:
        load_backbone(folder, image_size=size)
    return str(caught.value)


def test_other_canvases_are_refused(folder: Path, backbone: Backbone) -> None:
    one = backbone.image_size // 2
    for size in (one - 1, one + 1, 12 * one, 0):
        message = refused(folder, size)
        assert f"sees its images at {one} pixels or, in tiles, at {2 * one}" in message
        assert message.endswith("choose one of them, or leave image_size out")
    assert load_backbone(folder, image_size=one).tiling == Tiling(backbone.grid[0] // 2)


def test_a_family_without_tiles(tmp_path: Path) -> None:
    KINDS["llava-1.5"].save(tmp_path)
    message = refused(tmp_path, 168)
    assert message.endswith("a 'llava' model sees its images at 84 pixels; leave image_size out")


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("InternVL3-8B-hf", {448: (16, 256), 896: (32, 1280), 1344: (48, 2560)}),
        # of the sides up to 2304 in its config, those of which it keeps every token
        ("llava-onevision-qwen2-7b-ov-hf", {384: (27, 729), 768: (54, 729 + 54 * 55), 1152: (81, 729 + 81 * 82)}),
    ],
)
def test_public_models_in_tiles(name: str, sizes: dict[int, tuple[int, int]]) -> None:
    for size, (side, tokens) in sizes.items():
        model = draw_blueprint(CONFIGS / f"{name}.json", image_size=size)
        assert (model.layout.image_size, model.layout.grid, model.image_tokens) == (size, (side, side), tokens)
    largest = " or ".join(str(size) for size in [*sizes][1:])
    with pytest.raises(ValueError, match=f"in tiles, at {largest};"):
        draw_blueprint(CONFIGS / f"{name}.json", image_size=16 * min(sizes))
