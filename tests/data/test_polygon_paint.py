"""The painter agrees with OpenCV 4.8 to 4.10, pixel for pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seglens.data.polygon_paint import paint


@pytest.fixture(scope="module")
def cv2() -> Any:
    module = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    if tuple(map(int, module.__version__.split(".")[:2])) >= (4, 11):
        pytest.skip(f"OpenCV {module.__version__} fills otherwise; need 4.8 to 4.10")
    return module


def reference(cv2: Any, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """LISA's two calls."""
    canvas = np.zeros(size, np.uint8)
    corners = np.array([points.tolist()], dtype=np.int32)
    cv2.polylines(canvas, corners, True, 1, 1)
    cv2.fillPoly(canvas, corners, 1)
    return canvas.astype(bool)


@settings(deadline=None, database=None, max_examples=400)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    points=st.lists(st.tuples(st.integers(-80, 140), st.integers(-80, 140)), min_size=1, max_size=12),
)
def test_any_polygon(cv2: Any, height: int, width: int, points: list[tuple[int, int]]) -> None:
    corners = np.array(points, np.int64)
    np.testing.assert_array_equal(paint(corners, (height, width)), reference(cv2, corners, (height, width)))


@pytest.mark.parametrize("seed", range(4))
def test_outlines_of_many_points(cv2: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 150)
    radius = random.uniform(0.5, 1, 150)
    corners = np.stack([300 + 290 * radius * np.cos(angles), 200 + 240 * radius * np.sin(angles)], axis=1)
    corners = corners.astype(np.int64)
    np.testing.assert_array_equal(paint(corners, (400, 600)), reference(cv2, corners, (400, 600)))


@pytest.mark.parametrize(
    "points",
    [
        [[-(2**31), 0], [2**31 - 1, 5], [3, 2**31 - 1]],
        [[-999_999, -999_999], [999_999, 7], [20, 999_999]],
        [[-9, -9], [-5, -9], [-5, -5]],
        [[-5, -5], [200, -5], [200, 200], [-5, 200]],
    ],
)
def test_far_outside(cv2: Any, points: list[list[int]]) -> None:
    corners = np.array(points, np.int64)
    np.testing.assert_array_equal(paint(corners, (60, 70)), reference(cv2, corners, (60, 70)))


def test_a_square_and_its_hole() -> None:
    square = np.array([[1, 1], [8, 1], [8, 8], [1, 8]], np.int64)
    mask = paint(square, (10, 12))
    assert mask.sum() == 64  # outline included
    assert mask[1:9, 1:9].all()
    twice = np.concatenate([square, np.array([[1, 1], [3, 3], [6, 3], [6, 6], [3, 6], [3, 3]])])
    assert not paint(twice, (10, 12))[4:6, 4:6].any()  # even-odd
