"""Logits at the image's size, read a few rows at a time: the same numbers, and never a plane for each query."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from seglens.core import mask_logits as drawing
from seglens.core.geometry import Frame
from seglens.core.mask_logits import BAND, Drawing, Moves, bands
from seglens.core.schema import Click
from seglens.inference.instance import Instance
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter

SIZES = [(1, 1), (1, 57), (57, 1), (480, 640), (641, 479), (40, 1200), (333, 1000)]


def at_once(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Of all pixels and queries together."""
    side = max(height, width)
    y, x = ((torch.arange(extent, dtype=torch.float32) + 0.5) / side * 2 - 1 for extent in (height, width))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    return F.grid_sample(logits[None], grid[None], padding_mode="border", align_corners=False)[0]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("queries", "side", "band"), [(1, 64, BAND), (3, 16, 5000), (5, 256, 1)])
def test_rows_are_those_of_the_whole(
    height: int, width: int, queries: int, side: int, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "BAND", band)
    logits = torch.randn(queries, side, side, generator=torch.Generator().manual_seed(height * width)) * 4
    expected, whole_drawing = at_once(logits, height, width), Drawing(Frame(height, width), logits)
    for rows, part in whole_drawing.bands():
        assert torch.equal(part, expected[:, rows])
    for (mask, certain), whole in zip(whole_drawing.above(0.3), expected, strict=True):
        assert np.array_equal(mask, whole > 0.3)
        inside = whole[whole > 0.3].sigmoid()
        assert certain == pytest.approx(float(inside.mean()) if len(inside) else 0.0, abs=1e-6)
    pixels = np.array([[0, 0], [height - 1, width - 1], [height // 2, width // 3]])
    np.testing.assert_array_equal(whole_drawing.at(pixels), expected[:, pixels[:, 0], pixels[:, 1]])


def test_bands_cover_every_row_once() -> None:
    assert [(rows.start, rows.stop) for rows in bands(5, BAND // 2)] == [(0, 2), (2, 4), (4, 5)]
    assert list(bands(2, 10 * BAND)) == [slice(0, 1), slice(1, 2)]
    assert list(bands(3, 0)) == [slice(0, 3)]


def test_what_single_pixels_add(monkeypatch: pytest.MonkeyPatch) -> None:
    at, weight = np.array([[3, 4], [9, 0]]), np.array([2.0, -3.0])
    moves = Moves(at, weight, 5.0)
    y, x = np.indices((12, 30))
    expected = sum(
        w * np.maximum(1 - np.hypot(y - row, x - column) / 5, 0) ** 2
        for (row, column), w in zip(at, weight, strict=True)
    )
    for band in (BAND, 40):
        monkeypatch.setattr(drawing, "BAND", band)
        moved = Drawing(Frame(12, 30), torch.zeros(1, 8, 8), moves)
        values = np.concatenate([logits[0].numpy() for _, logits in moved.bands()])
        np.testing.assert_allclose(values, expected, atol=1e-5)


# ---------------------------------------------------------------- what a user gets, and what it takes


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many logits at the image's size were made at a time."""
    counts, read = [], Frame.to_image_logits

    def watched(self: Frame, logits: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        result = read(self, logits, rows)
        counts.append(result.numel())
        return result

    monkeypatch.setattr(Frame, "to_image_logits", watched)
    monkeypatch.setattr(drawing, "BAND", 20_000)
    return counts


def large(segmenter: Segmenter) -> OpenedImage:
    image = np.full((400, 600, 3), 200, np.uint8)
    image[100:200, 150:300] = (200, 30, 30)
    return segmenter.open(image)


def test_no_plane_is_made_for_a_query(segmenter: Segmenter, most: list[int]) -> None:
    opened = large(segmenter)
    predictions = opened.segment(["the largest thing", "each thing", "the red apple", "the blue car"])
    opened.refine(predictions[0], [Click(x=10, y=10), Click(x=590, y=390, label=0)])
    for one in predictions:
        one.answer()
        one.drawn(0.0)
    predictions[0].overlay()
    assert most
    assert max(most) <= 20_000


def test_logits_are_made_when_they_are_asked_for(segmenter: Segmenter, most: list[int]) -> None:
    opened = large(segmenter)
    prediction = opened.segment("the largest thing", trust=True)  # a plain rectangle is no scene of the drawn world
    moved = opened.refine(prediction, [Click(x=10, y=10), Click(x=225, y=150, label=0)])
    for one in (prediction, moved):
        assert not any(
            isinstance(v, np.ndarray) and v.dtype == np.float32 and v.size > 10_000 for v in vars(one).values()
        )
        np.testing.assert_array_equal(one.drawn(0.0), one.mask_logits > 0)
        np.testing.assert_array_equal(one.mask, one.mask_logits > 0)
    assert moved.mask_logits[10, 10] > 0 > moved.mask_logits[150, 225]


def test_logits_of_a_prediction_made_by_hand(segmenter: Segmenter) -> None:
    prediction = large(segmenter).segment("the largest thing")
    logits = np.where(prediction.mask, 4, -4).astype(np.float32)
    by_hand = replace(prediction, canvas_logits=None, logits=logits)
    assert np.shares_memory(replace(by_hand, query="another").mask_logits, logits)
    np.testing.assert_array_equal(by_hand.drawn(0.0), prediction.mask)
    with pytest.raises(ValueError, match="made by hand, without mask_logits"):
        _ = replace(prediction, canvas_logits=None).mask_logits


def test_a_picture_full_of_things_costs_about_a_mask() -> None:
    mask = np.zeros((50, 70), bool)
    mask[10:20, 30:45] = True
    whole, part = Instance(mask, 0.5), Instance(mask[8:30, 25:60], 0.5, corner=(25, 8), size=(50, 70))
    for one in (whole, part):
        assert (one.box, one.area, one.cut.shape) == ((30, 10, 45, 20), 150, (10, 15))
        np.testing.assert_array_equal(one.mask, mask)
