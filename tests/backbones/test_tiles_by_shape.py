"""Tiles arranged by a picture's shape: beside the families' own image processors and classes, and all that reads them.

Errors are relative to the largest value compared, as in test_contract.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bare import Bare, error
from einops import rearrange
from torch import Tensor, nn
from transformers import AutoConfig

from features.cache.made_up import manifest_for, same
from seglens.backbones import FAMILIES, Backbone, load_backbone
from seglens.core.geometry import Canvas, Frame
from seglens.core.tuning_types import AnswerTemplates, Tuning
from seglens.core.types import Sample, Target
from seglens.decoders import MaskDecoder
from seglens.features.cache import Cache, build
from seglens.features.examples import batches
from seglens.features.frozen import extract
from seglens.inference.frozen_models import Parts
from seglens.methods.preset import TILE
from seglens.training.config import TrainConfig
from seglens.training.example_stream import epochs_of
from seglens.training.trainer import fit
from tiny import EVERY, KINDS, SHAPED
from train_run import SMALL, fresh, head_config

WITHOUT_DROP = replace(SMALL, drop=0.0)
QUESTIONS = ("the red cup", "dog")
EXACT = {"dtype": torch.float32, "attn_implementation": "eager"}
TOLERANCE = 5e-6
SHAPES = {  # height, width: rows and columns of up to six tiles of 32 pixels
    (48, 64): (2, 3),
    (64, 40): (3, 2),
    (50, 100): (1, 2),
    (100, 50): (2, 1),
    (20, 250): (1, 6),
    (16, 16): (1, 1),
    (40, 40): (1, 1),  # less than half the area of four
    (100, 100): (2, 2),
    (300, 100): (3, 1),
    (2, 900): (1, 6),  # as wide as its rule goes
}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "internvl-by-shape"
    SHAPED[folder.name].save(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(folder, **{**EVERY[folder.name].options, **EXACT})


@pytest.fixture(scope="module")
def bare(folder: Path) -> Bare:
    return Bare.load(folder, **EXACT)


def cells(backbone: Backbone, size: tuple[int, int]) -> list[int]:
    """The place of the token of each cell among those of the image, counted by hand."""
    (rows, columns), side = SHAPES[size], backbone.tiling.cells
    places = []
    for row in range(rows * side):
        for column in range(columns * side):
            tile = row // side * columns + column // side
            places.append(tile * side**2 + row % side * side + column % side)
    return places


@pytest.mark.parametrize("size", SHAPES)
@torch.no_grad()
def test_pixels_tokens_and_states_are_those_of_the_chat(backbone: Backbone, bare: Bare, size: tuple[int, int]) -> None:
    """The family's own processor makes them, of its own number of tiles and with its thumbnail; read by its own
    class."""
    image, (rows, columns) = picture(*size), SHAPES[size]
    readout = backbone.read(backbone.open(image), QUESTIONS)
    side, start = backbone.tiling.cells, readout.prefix.shape[1]
    assert readout.grid == (rows * side, columns * side)
    for q, question in enumerate(QUESTIONS):
        inputs = bare.inputs(image, question)
        assert torch.equal(backbone.mllm.parts(image), inputs["pixel_values"])
        assert len(inputs["pixel_values"]) == rows * columns + (rows * columns > 1)
        there = bare.model(**inputs, output_hidden_states=True).hidden_states[backbone.layer][0]
        assert error(readout.prefix[0], there[:start]) < TOLERANCE  # measured: 1.9e-7
        assert error(readout.question[0, q, : len(there) - start], there[start:]) < TOLERANCE
        assert backbone.read_tokens(question, Frame(*size)) == len(there)
        tokens = (inputs["input_ids"][0] == bare.model.config.image_token_id).nonzero()[:, 0]
        assert readout.image_tokens.tolist() == [int(tokens[0]) + place for place in cells(backbone, size)]


@pytest.mark.parametrize("size", [(96, 128), (128, 80), (100, 200), (200, 200)])
@torch.no_grad()
def test_a_bright_spot_is_in_its_cell(backbone: Backbone, size: tuple[int, int]) -> None:
    """Of the patches, whose peak of change it is, and of the tokens of its tile alone."""
    adapted = backbone.adapt(Tuning(("[SEG]",)), AnswerTemplates(("[SEG]",), "{}", ("[SEG].",)))
    dark, frame = np.full((*size, 3), 40, np.uint8), backbone.mllm.frame(picture(*size))
    still, still_tokens = patches(adapted, dark), tokens(backbone, dark)
    tiling = backbone.mllm.tiling_of(frame)
    for down, along in ((0.13, 0.9), (0.8, 0.2), (0.2, 0.8)):
        y, x = round(down * size[0]), round(along * size[1])
        bright = dark.copy()
        bright[max(0, y - 3) : y + 3, max(0, x - 3) : x + 3] = 255
        changed = (patches(adapted, bright) - still).norm(dim=-1)
        (row, column), (height, width) = divmod(int(changed.argmax()), changed.shape[1]), changed.shape
        spot = frame.to_canvas(torch.tensor([[float(x), float(y)]]))[0] * torch.tensor([width, height])
        assert abs(column + 0.5 - spot[0]) <= 1  # a spot on a border lights both of its cells
        assert abs(row + 0.5 - spot[1]) <= 1
        moved = (tokens(backbone, bright) - still_tokens).norm(dim=-1)
        tile = torch.zeros(moved.shape, dtype=torch.bool)
        ys, xs = int(down * tiling.rows) * tiling.cells, int(along * tiling.across) * tiling.cells
        tile[ys : ys + tiling.cells, xs : xs + tiling.cells] = True
        assert (moved[tile] > 0).all()
        assert (moved[~tile] == 0).all()


def patches(adapted: object, image: np.ndarray) -> Tensor:
    """Over the canvas."""
    reading = adapted.read(adapted.open(image), ["dog"])
    return rearrange(reading.patches[0], "(h w) v -> h w v", h=reading.fine_grid[0])


def tokens(backbone: Backbone, image: np.ndarray) -> Tensor:
    """As the language model is given them, without the thumbnail, over the canvas."""
    rows, tiling = backbone.mllm.embed_image(image).rows[0], backbone.mllm.tiling_of(backbone.mllm.frame(image))
    return rearrange(rows[len(rows) - tiling.tokens + tiling.places], "(h w) d -> h w d", h=tiling.grid[0])


@torch.no_grad()
def test_attention_maps_have_the_picture_s_grid(backbone: Backbone, bare: Bare) -> None:
    size = (48, 64)
    image, reader = picture(*size), backbone.head_reader()
    maps = reader.read(reader.open(image), QUESTIONS[:1])
    assert maps.inside.all()
    assert maps.maps.shape[-2:] == backbone.mllm.tiling_of(Frame(*size)).grid
    inputs = bare.inputs(image, QUESTIONS[0])
    attention = bare.model(**inputs, output_attentions=True).attentions
    first = int((inputs["input_ids"][0] == bare.model.config.image_token_id).nonzero()[0])
    places = [first + place for place in cells(backbone, size)]
    expected = torch.stack([layer[0, :, -1, places] for layer in attention[: reader.count]])
    assert error(maps.maps[0, :, :, 0].flatten(2), expected) < TOLERANCE


@torch.no_grad()
def test_an_adapter_reads_the_tiles_without_a_thumbnail(backbone: Backbone, bare: Bare) -> None:
    """As the authors of SELF1E and UFO show them; in training as in reading."""
    adapted = backbone.adapt(Tuning(("[SEG]",)), AnswerTemplates(("[SEG]",), "find {}", ("[SEG]",)))
    for size in ((48, 64), (300, 100), (40, 40)):
        image, (rows, columns) = picture(*size), SHAPES[size]
        reading = adapted.read(adapted.open(image), ["dog"])
        side = backbone.tiling.cells
        assert reading.grid == (rows * side, columns * side)
        pixels = bare.inputs(image, "find dog")["pixel_values"][: rows * columns]
        ids = bare.ids("find dog", rows * columns * side**2)
        there = bare.model(input_ids=ids, pixel_values=pixels, output_hidden_states=True).hidden_states[-1][0]
        expected = there[ids[0] == bare.model.config.image_token_id][cells(backbone, size)]
        assert error(reading.image[0, 0], expected) < TOLERANCE
        assert error(reading.segment[0, 0, 0], there[-1]) < TOLERANCE


class Shapes(list[Sample]):
    """A dataset."""

    trainable = True


def samples() -> Shapes:
    random, shapes = np.random.default_rng(5), Shapes()
    for height, width in ((60, 130), (130, 60), (66, 130)):
        masks = [random.random((height, width)) < 0.4 for _ in QUESTIONS]
        image = picture(height, width, height)
        shapes.append(Sample(f"{height}x{width}", image, tuple(map(Target, QUESTIONS, masks))))
    return shapes


def test_features_are_cached_as_they_are_read(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    """Bit by bit, of pictures of different grids in one cache; a batch holds those of one grid."""
    data = samples()
    build(data, lambda sample: extract(sample, backbone, decoder), tmp_path, manifest_for(data))
    cache, live = Cache(tmp_path, manifest_for(data)), [extract(sample, backbone, decoder) for sample in data]
    stored = [cache.example(n, (0, 1)) for n in range(len(data))]
    assert all(same(one, other) for one, other in zip(stored, live, strict=True))
    side = backbone.tiling.cells
    wide, tall = batches(stored)
    assert (wide.inputs.grid, tall.inputs.grid) == ((side, 2 * side), (2 * side, side))
    assert wide.truth.cells.shape == (2, 2, side, 2 * side)
    for batch, sample in ((wide, data[0]), (tall, data[1])):
        shares = torch.tensor([float(target.mask.mean()) for target in sample.targets])
        assert torch.allclose(batch.truth.cells[0].mean((1, 2)), shares, atol=2e-3)


def test_a_pass_of_several_grids_trains_as_passes_of_one(
    backbone: Backbone, decoder: MaskDecoder, tmp_path: Path
) -> None:
    """Steps of wide and tall pictures, in one pass each or picture by picture; and they are validated together."""

    def trained(micro: int) -> dict[str, float]:
        head, source = fresh(backbone, decoder, WITHOUT_DROP), Parts(backbone, decoder).live(samples(), "shapes")
        for part in head.modules():
            if isinstance(part, nn.Dropout | nn.MultiheadAttention):  # drawn anew in every pass
                part.p = part.dropout = 0.0
        config = TrainConfig(steps=3, images=3, micro=micro, warmup=0, lr=1e-3, seed=4, mixed_precision="no")
        out = tmp_path / str(micro)
        return fit(
            head, epochs_of(source, seed=4), config, head_config(backbone, decoder), out, validation=source, quiet=True
        )

    singly, together = trained(1), trained(3)
    assert together == pytest.approx(singly, rel=1e-3)


def test_the_key_of_features_names_the_tiles(folder: Path, backbone: Backbone) -> None:
    other, one = (load_backbone(folder, canvas=canvas).signature() for canvas in (Canvas(tiles=3), TILE))
    assert len({backbone.signature()["frame"], other["frame"], one["frame"]}) == 3


@torch.no_grad()
def test_up_to_one_tile_is_the_squashed_picture(folder: Path) -> None:
    image = picture(50, 120)
    one, squashed = (load_backbone(folder, canvas=canvas) for canvas in (Canvas(tiles=1), TILE))
    assert error(one.pixels(image), squashed.pixels(image)) < 1e-6
    assert one.open(image).frame == squashed.open(image).frame


# ------------------------------------------------------------------ what cannot be had


@pytest.mark.parametrize("tiles", [0, -1, 41, True])
def test_a_number_of_tiles_that_is_none_is_refused(tiles: object) -> None:
    with pytest.raises(ValueError, match=f"^got tiles={tiles!r}; it must be a whole number from 1 to 40$"):
        Canvas(tiles=tiles)


def test_tiles_that_cannot_be_had_are_refused(folder: Path, tmp_path: Path) -> None:
    KINDS["llava-1.5"].save(tmp_path)
    with pytest.raises(ValueError, match=r"^tiles=4 cannot be had: a 'llava' model sees its pictures in one piece"):
        load_backbone(tmp_path, canvas=Canvas(tiles=4))
    with pytest.raises(ValueError, match=r"^got tiles=4, .* with an image_size of 2 x 2 tiles for every picture"):
        load_backbone(folder, image_size=64, canvas=Canvas(tiles=4))


# ------------------------------------------------------------------ LLaVA-NeXT and OneVision: the padding is left out

# height, width: the grids of NeXT (4 x 4 cells a tile) and of OneVision (5 x 5; scaled to the cells of about 2 tiles)
ANY = {
    (48, 64): ((4, 6), (6, 7)),
    (64, 40): ((6, 4), (8, 5)),
    (40, 160): ((2, 8), (3, 10)),
    (160, 40): ((8, 2), (10, 3)),
    (100, 100): ((8, 8), (7, 7)),
    (30, 30): ((4, 4), (5, 5)),
}


@pytest.fixture(scope="module", params=["llava-next-by-shape", "llava-onevision-by-shape"])
def unpadded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Backbone, Bare]:
    folder = tmp_path_factory.mktemp("any") / request.param
    SHAPED[folder.name].save(folder)
    return load_backbone(folder, **{**EVERY[folder.name].options, **EXACT}), Bare.load(folder, **EXACT)


@pytest.mark.parametrize("size", ANY)
@torch.no_grad()
def test_unpadded_tokens_and_states_are_those_of_the_chat(
    unpadded: tuple[Backbone, Bare], size: tuple[int, int]
) -> None:
    """The resolution, the base image, the newlines, the unpadding and the scaling are the family's own."""
    (backbone, bare), image = unpadded, picture(*size)
    readout = backbone.read(backbone.open(image), QUESTIONS)
    height, width = readout.grid
    assert readout.grid == ANY[size][backbone.family == "llava_onevision"]
    for q, question in enumerate(QUESTIONS):
        inputs = bare.inputs(image, question)
        assert torch.equal(backbone.mllm.parts(image), inputs["pixel_values"][0])
        there = bare.model(**inputs, output_hidden_states=True).hidden_states[backbone.layer][0]
        start = readout.prefix.shape[1]
        assert error(readout.prefix[0], there[:start]) < TOLERANCE
        assert error(readout.question[0, q, : len(there) - start], there[start:]) < TOLERANCE
        assert backbone.read_tokens(question, Frame(*size)) == len(there)
        tokens = (inputs["input_ids"][0] == bare.model.config.image_token_id).nonzero()[:, 0]
        base = backbone.tiling.cells**2
        assert len(tokens) == base + height * (width + 1)
        places = [base + row * (width + 1) + column for row in range(height) for column in range(width)]
        assert readout.image_tokens.tolist() == [int(tokens[0]) + place for place in places]


@pytest.mark.parametrize("size", [(48, 64), (64, 40), (40, 160), (160, 40), (100, 100)])
@torch.no_grad()
def test_a_bright_spot_is_in_its_unpadded_cell(unpadded: tuple[Backbone, Bare], size: tuple[int, int]) -> None:
    """To a cell: the grid begins and ends up to half a cell beside the picture, where the family cuts between cells."""
    backbone, _ = unpadded
    dark, frame = np.full((*size, 3), 40, np.uint8), backbone.mllm.frame(picture(*size))
    still = tokens(backbone, dark)
    for down, along in ((0.13, 0.9), (0.8, 0.2), (0.2, 0.8), (0.5, 0.5)):
        y, x = round(down * size[0]), round(along * size[1])
        bright = dark.copy()
        bright[max(0, y - 3) : y + 3, max(0, x - 3) : x + 3] = 255
        changed = (tokens(backbone, bright) - still).norm(dim=-1)
        (row, column), (height, width) = divmod(int(changed.argmax()), changed.shape[1]), changed.shape
        spot = frame.to_canvas(torch.tensor([[float(x), float(y)]]))[0] * torch.tensor([width, height])
        assert abs(column + 0.5 - spot[0]) <= 1
        assert abs(row + 0.5 - spot[1]) <= 1


def test_fewer_tiles_than_the_config_names(unpadded: tuple[Backbone, Bare]) -> None:
    backbone, _ = unpadded
    two = load_backbone(backbone.name, canvas=Canvas(tiles=2))
    fewer = 2 if backbone.family == "llava_next" else 1  # of two, OneVision's second would show padding alone
    assert (backbone.mllm.tiling_of(Frame(100, 100)).tiles, two.mllm.tiling_of(Frame(100, 100)).tiles) == (4, fewer)
    assert two.open(picture(100, 100)).prefix.shape[1] < backbone.open(picture(100, 100)).prefix.shape[1]
    if backbone.family == "llava_next":  # no arrangement of one tile, and an even number of rows to unpad
        with pytest.raises(ValueError, match=r"^tiles=1 cannot be had: a 'llava_next' model has 2 to 4; give more$"):
            load_backbone(backbone.name, canvas=Canvas(tiles=1))
        with pytest.raises(ValueError, match=r"^a picture of 2 x 900 .* too narrow to be shown in tiles"):
            backbone.open(picture(2, 900))
    with pytest.raises(ValueError, match=r"in tiles is read by LENS only: .*; choose one, or leave tiles out$"):
        backbone.adapt(Tuning(("[SEG]",)), AnswerTemplates(("[SEG]",), "{}", ("[SEG].",)))


@pytest.mark.parametrize(
    ("name", "tiles", "size", "grid", "tokens"),
    [
        ("InternVL3-8B-hf", 12, (800, 1600), (32, 64), 9 * 256),
        ("InternVL3-8B-hf", 12, (480, 640), (48, 64), 13 * 256),
        ("InternVL3-8B-hf", 4, (480, 640), (16, 16), 256),
        ("llava-onevision-qwen2-7b-ov-hf", 36, (480, 640), (40, 54), 729 + 40 * 55),
    ],
)
def test_public_models(name: str, tiles: int, size: tuple[int, int], grid: tuple[int, int], tokens: int) -> None:
    config = AutoConfig.from_pretrained(Path(__file__).parent / "configs" / f"{name}.json")
    tiling = FAMILIES[config.model_type].tiler.arrange(config, *size, tiles)
    assert (tiling.grid, tiling.tokens, len(tiling.places)) == (grid, tokens, grid[0] * grid[1])
