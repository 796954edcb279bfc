"""Outlines cover exactly the mask's pixels, as rings that other tools accept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from jaxtyping import Bool, Int

from exports.predictions import MASKS, blobs
from seglens.exports.outline import Region, regions_of


def area(ring: Int[np.ndarray, "_ 2"]) -> int:
    """The shoelace formula."""
    (x, y), (after_x, after_y) = ring.T, np.roll(ring, -1, 0).T
    return int((x * after_y - y * after_x).sum()) // 2


def filled(rings: list[Int[np.ndarray, "_ 2"]], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The pixels whose centres have an odd number of vertical edges to their left, by brute force."""
    odd = np.zeros(size, bool)
    for ring in rings:
        for (x, y), (_, after) in zip(ring.tolist(), np.roll(ring, -1, 0).tolist(), strict=True):
            odd[min(y, after) : max(y, after), x:] ^= True
    return odd


def pieces(mask: Bool[np.ndarray, "h w"]) -> list[Bool[np.ndarray, "h w"]]:
    """Its parts that are connected by their sides, by spreading from pixel to pixel."""
    left, parts = mask.copy(), []
    while left.any():
        part = np.zeros_like(mask)
        part[tuple(np.argwhere(left)[0])] = True
        grown = None
        while grown is None or (grown != part).any():
            part, grown = (part if grown is None else grown), part
            padded = np.pad(part, 1)
            grown = mask & (part | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:])
        parts.append(part)
        left &= ~part
    return parts


def check(mask: Bool[np.ndarray, "h w"]) -> tuple[Region, ...]:
    regions = regions_of(mask)
    for region in regions:
        for place, ring in enumerate(region.rings):
            steps = np.roll(ring, -1, 0) - ring
            assert ((steps == 0).sum(1) == 1).all()  # along pixel edges, and never on the spot
            assert ((steps == 0) != np.roll(steps == 0, -1, 0)).all()  # every point is a turn
            assert len(np.unique(ring, axis=0)) == len(ring)  # no corner twice
            assert (area(ring) > 0) == (place == 0)
            assert (filled([ring], mask.shape) <= filled(region.rings[:1], mask.shape)).all()
        assert sum(map(area, region.rings)) == filled(region.rings, mask.shape).sum()
    drawn = [filled(region.rings, mask.shape) for region in regions]
    assert {one.tobytes() for one in drawn} == {one.tobytes() for one in pieces(mask)}
    return regions


@settings(max_examples=60)
@given(MASKS)
def test_any_mask(mask: np.ndarray) -> None:
    check(mask)


def test_masks_as_models_draw_them() -> None:
    regions = [region for seed in (2, 4) for region in check(blobs(seed))]
    assert len(regions) > 8
    assert any(region.bridges for region in regions)


def drawn(*rows: str) -> Bool[np.ndarray, "h w"]:
    return np.array([[letter == "#" for letter in row] for row in rows])


@pytest.mark.parametrize(
    ("mask", "rings"),
    [
        (drawn("..", ".."), []),
        (drawn("#"), [1]),
        (drawn("###", "#.#", "###"), [2]),
        (drawn("#.", ".#"), [1, 1]),  # a corner in common does not join two pixels
        (drawn("###", "#.#", "##."), [2]),  # the outer ring meets its hole at a corner
        (drawn("####", "#.##", "##.#", "####"), [3]),  # two holes that touch at a corner
        (drawn("#####", "#...#", "#.#.#", "#...#", "#####"), [2, 1]),  # an island in a hole
    ],
    ids=["empty", "pixel", "hole", "corner", "hole at the border", "two holes", "island"],
)
def test_rings_of_small_masks(mask: np.ndarray, rings: list[int]) -> None:
    assert sorted(len(region.rings) for region in check(mask)) == sorted(rings)


def test_the_points_are_pixel_corners_of_the_image() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:7] = True
    (region,) = regions_of(mask)
    assert region.rings[0].tolist() == [[3, 5], [3, 2], [7, 2], [7, 5]]
