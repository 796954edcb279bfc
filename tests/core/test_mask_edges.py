"""The edge of a mask as pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seglens.core.mask_edges import edge_pixels


def test_the_border_counts_as_an_edge_only_with_border() -> None:
    mask = np.zeros((5, 6), bool)
    mask[:3, :4] = True
    ring = mask.copy()
    ring[1, 1:3] = False
    assert (edge_pixels(mask) == ring).all()
    right_and_below = mask.copy()
    right_and_below[:2, :3] = False
    assert (edge_pixels(mask, border=False) == right_and_below).all()


@given(arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))), st.integers(1, 3))
@pytest.mark.parametrize("border", [True, False])
def test_every_pixel_within_width_steps_of_the_outside(border: bool, mask: np.ndarray, width: int) -> None:
    rows, columns = np.indices(mask.shape)
    outside = [*zip(*np.nonzero(~mask), strict=True)]
    if border:
        height, length = mask.shape
        outside += [(y, x) for y in range(-1, height + 1) for x in (-1, length)]
        outside += [(y, x) for y in (-1, height) for x in range(length)]
    steps = [np.abs(rows - y) + np.abs(columns - x) for y, x in outside]
    nearest = np.min(steps, axis=0) if steps else np.full(mask.shape, width + 1)
    assert (edge_pixels(mask, width, border) == mask & (nearest <= width)).all()
