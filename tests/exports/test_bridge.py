"""Polygons without holes: pycocotools makes exactly the same pixels of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from jaxtyping import Bool, Int
from pycocotools import mask as coco

from exports.predictions import MASKS, blobs
from seglens.exports.bridge import bridged, joined
from seglens.exports.outline import regions_of

# pycocotools gives numpy 2 arrays in a way that numpy 1 knew.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def as_coco(polygons: list[Int[np.ndarray, "_ 2"]], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    encoded = coco.frPyObjects([polygon.ravel().astype(float).tolist() for polygon in polygons], *size)
    return coco.decode(coco.merge(encoded)).astype(bool)


def check(mask: Bool[np.ndarray, "h w"]) -> None:
    regions = regions_of(mask)
    if regions:
        np.testing.assert_array_equal(as_coco([bridged(one) for one in regions], mask.shape), mask)
        np.testing.assert_array_equal(as_coco([joined(regions)], mask.shape), mask)


@settings(max_examples=60)
@given(MASKS)
def test_any_mask(mask: np.ndarray) -> None:
    check(mask)


@pytest.mark.parametrize("seed", range(2, 6))
def test_masks_as_models_draw_them(seed: int) -> None:
    check(blobs(seed))


def test_many_holes_on_one_edge_and_holes_next_to_holes() -> None:
    mask = np.ones((25, 40), bool)
    mask[2::3, 3::4] = False
    (region,) = regions_of(mask)
    assert len(region.bridges) == 8 * 9
    check(mask)


def test_a_bridge_is_within_the_mask() -> None:
    for seed in range(8):
        mask = blobs(seed, (40, 60))
        for region in regions_of(mask):
            for bridge in region.bridges:
                x, y = region.rings[bridge.hole][0].tolist()
                assert bridge.x < x
                assert mask[y, bridge.x : x].all()
                start, end = region.rings[bridge.ring][bridge.after : bridge.after + 2].tolist()
                assert start[0] == end[0] == bridge.x
                assert min(start[1], end[1]) <= y < max(start[1], end[1])


def test_drawing_the_line_too_adds_the_right_and_lower_border() -> None:
    """OpenCV rounds to pixel centres and draws the outline, as ultralytics and supervision use it."""
    for seed in range(4):
        mask = blobs(seed)
        drawn = np.zeros(mask.shape, np.uint8)
        for region in regions_of(mask):
            cv2.fillPoly(drawn, [bridged(region).astype(np.int32)], 1)
        grown = np.pad(mask, ((1, 0), (1, 0)))
        grown = grown[1:, 1:] | grown[:-1, 1:] | grown[1:, :-1] | grown[:-1, :-1]
        assert (drawn.astype(bool) >= mask).all()
        assert (drawn.astype(bool) <= grown).all()
