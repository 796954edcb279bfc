"""Connected regions and depths, against slow searches."""

from __future__ import annotations

import numpy as np
import pytest

from seglens.core.connected_components import box_of, depth, label_regions


def flooded(mask: np.ndarray) -> np.ndarray:
    """Regions by flood fill."""
    labels, count = np.zeros(mask.shape, int), 0
    for start in zip(*np.nonzero(mask), strict=True):
        if labels[start]:
            continue
        count += 1
        todo = [start]
        while todo:
            y, x = todo.pop()
            inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
            if inside and mask[y, x] and not labels[y, x]:
                labels[y, x] = count
                todo += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels


def spiral(size: int) -> np.ndarray:
    """One region that no few rounds of spreading would join."""
    mask, (y, x), (dy, dx) = np.zeros((size, size), bool), (0, 0), (0, 1)
    for steps in sorted([*range(2, size, 2), *range(2, size, 2), size - 1], reverse=True):
        for _ in range(steps):
            mask[y, x] = True
            y, x = y + dy, x + dx
        dy, dx = dx, -dy
    return mask


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (23, 31)])
def test_regions_are_those_of_a_flood_fill(share: float, size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(size) < share
    np.testing.assert_array_equal(label_regions(mask), flooded(mask))


def test_a_spiral_is_one_region_and_corners_touch() -> None:
    mask = spiral(41)
    assert label_regions(mask).max() == flooded(mask).max()
    np.testing.assert_array_equal(label_regions(np.eye(5, dtype=bool)), np.eye(5, dtype=int))
    np.testing.assert_array_equal(label_regions(np.eye(5, dtype=bool)[:, ::-1]), np.eye(5, dtype=int)[:, ::-1])


def test_depth_is_the_way_out_along_rows_and_columns() -> None:
    mask = np.ones((5, 9), bool)
    assert depth(mask).tolist()[2] == [1, 2, 3, 3, 3, 3, 3, 2, 1]
    mask[2, 4] = False
    assert depth(mask, border=False)[2].tolist() == [4, 3, 2, 1, 0, 1, 2, 3, 4]
    assert depth(mask, border=False)[0, 4] == 2
    assert depth(np.ones((2, 3), bool), border=False).min() > 3
    assert not depth(np.zeros((3, 3), bool)).any()


def test_the_box_of_a_mask() -> None:
    mask = np.zeros((8, 9), bool)
    assert box_of(mask) is None
    mask[2:5, 3] = True
    assert box_of(mask) == (3, 2, 4, 5)
