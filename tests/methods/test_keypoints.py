"""Keypoints against a slow loop and against surfaces whose peak is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seglens.methods.keypoints import guarded_newton_step, newton_step, suppress

quick = settings(deadline=None, database=None, max_examples=60)
sizes = st.tuples(st.integers(1, 14), st.integers(1, 14))


def maps(n: int, size: tuple[int, int], seed: int) -> Tensor:
    return torch.rand(n, *size, generator=torch.Generator().manual_seed(seed))


def slowly(heat: np.ndarray, count: int, radius: float, threshold: float) -> tuple[list[tuple[int, int]], list[float]]:
    """S1.1 word for word: take the highest response, set all within the radius to zero, until none exceeds zero."""
    heat = heat.copy()
    points: list[tuple[int, int]] = []
    scores: list[float] = []
    while len(points) < count and heat.max() > 0:
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        if scores and heat[y, x] < np.float32(threshold) * np.float32(scores[0]):
            break
        points.append((int(x), int(y)))
        scores.append(float(heat[y, x]))
        for v in range(heat.shape[0]):
            for u in range(heat.shape[1]):
                if (u - x) ** 2 + (v - y) ** 2 <= radius**2:
                    heat[v, u] = 0
    return points, scores


@quick
@given(
    sizes,
    st.integers(1, 20),
    st.sampled_from([0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0]),
    st.sampled_from([0.0, 0.4, 0.9]),
    st.integers(0, 999),
)
def test_suppression_equals_a_plain_loop(
    size: tuple[int, int], count: int, radius: float, threshold: float, seed: int
) -> None:
    heat = maps(3, size, seed)
    heat[heat < 0.2] = 0
    points, scores, keep = suppress(heat, count, radius, threshold)
    for one in range(3):
        expected, responses = slowly(heat[one].numpy(), count, radius, threshold)
        assert points[one, keep[one]].tolist() == [list(p) for p in expected]
        assert scores[one, keep[one]].tolist() == responses
        assert keep[one].tolist() == sorted(keep[one].tolist(), reverse=True)  # void points stand last


@quick
@given(sizes, st.floats(0, 6), st.integers(0, 999))
def test_no_two_points_within_the_radius(size: tuple[int, int], radius: float, seed: int) -> None:
    points, _, keep = suppress(maps(1, size, seed), 16, radius)
    used = points[0, keep[0]].double()
    apart = torch.linalg.vector_norm(used[:, None] - used, dim=-1) + torch.eye(len(used)) * 1e3
    assert (apart > radius).all()


def test_the_radius_itself_is_suppressed() -> None:
    """3-4-5: a cell at exactly the radius is within it, wherever on the map."""
    for size in (8, 24, 64):
        heat = torch.zeros(1, size, size)
        y, x = size - 2, size - 2
        heat[0, y, x], heat[0, y - 4, x - 3], heat[0, y - 5, x - 1] = 1.0, 0.9, 0.8
        points, _, keep = suppress(heat, 16, 5.0)
        assert points[0, keep[0]].tolist() == [[x, y], [x - 1, y - 5]]


def test_threshold_is_relative_to_the_peak() -> None:
    heat = torch.zeros(2, 1, 9)
    heat[:, 0, [0, 4, 8]] = torch.tensor([0.5, 0.2, 0.19])
    heat[1] /= 1000
    assert suppress(heat, 3, 1.0, 0.4)[2].tolist() == [[True, True, False]] * 2
    assert suppress(heat, 3, 1.0)[2].all()


def test_suppression_stops_when_no_response_is_left() -> None:
    points, scores, keep = suppress(torch.zeros(1, 5, 6), 4, 1.0)
    assert points.shape == (1, 4, 2)
    assert not keep.any()
    assert (scores == 0).all()
    one = torch.zeros(1, 5, 6)
    one[0, 2, 3] = 1e-20
    points, _, keep = suppress(one, 4, 1.0)
    assert keep.tolist() == [[True, False, False, False]]
    assert points[0, 0].tolist() == [3, 2]
    assert suppress(torch.ones(1, 2, 2), 16, 9.0)[0].shape == (1, 4, 2)  # never more than cells


def test_maps_are_independent_of_each_other() -> None:
    heat = maps(5, (12, 9), 0)
    together = suppress(heat, 6, 2.0, 0.3)
    refined = guarded_newton_step(heat, together[0])
    for n in range(5):
        alone = suppress(heat[n : n + 1], 6, 2.0, 0.3)
        for one, all_ in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_[n])
        assert torch.equal(guarded_newton_step(heat[n : n + 1], alone[0])[0], refined[n])


def quadratic(a: float, b: float, c: float, peak: tuple[float, float], size: int = 11, top: float = 1.0) -> Tensor:
    """top + (a dx2 + 2 c dx dy + b dy2) / 2 around the peak."""
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float64),) * 2, indexing="ij")
    dx, dy = x - peak[0], y - peak[1]
    return (top + 0.5 * (a * dx**2 + 2 * c * dx * dy + b * dy**2))[None]


@quick
@given(
    st.floats(0.01, 0.3),
    st.floats(0.01, 0.3),
    st.floats(-0.9, 0.9),
    st.floats(-0.5, 0.5),
    st.floats(-0.5, 0.5),
    st.floats(1e-6, 1e3),
)
def test_the_guarded_step_reaches_the_peak_of_a_paraboloid(
    a: float, b: float, slant: float, dx: float, dy: float, scale: float
) -> None:
    """At any scale of the map. Only the Tikhonov term is in the way: measured at most 5e-4 cells at curvature .01."""
    c = slant * math.sqrt(a * b)
    heat = quadratic(-a, -b, c, (5 + dx, 4 + dy)) * scale
    refined_points = guarded_newton_step(heat, torch.tensor([[[5.0, 4.0]]], dtype=torch.float64))[0, 0]
    assert refined_points.tolist() == pytest.approx([5 + dx, 4 + dy], abs=2e-3)


def test_the_guarded_step_works_in_single_precision() -> None:
    heat = quadratic(-0.1, -0.2, 0.05, (5.3, 3.8)).float()
    assert guarded_newton_step(heat, torch.tensor([[[5.0, 4.0]]]))[0, 0].tolist() == pytest.approx([5.3, 3.8], abs=1e-4)


@pytest.mark.parametrize(
    "heat",
    [
        quadratic(0.1, -0.1, 0.0, (5.3, 4.2)),
        quadratic(-0.1, -0.1, 0.2, (5.3, 4.2)),  # saddles, straight and slanted
        quadratic(0.1, 0.1, 0.0, (5.3, 4.2), top=0.1),
        torch.ones(1, 11, 11),
        torch.zeros(1, 11, 11),
    ],
    ids=["saddle", "slanted saddle", "minimum", "flat", "zero"],
)
def test_the_guarded_step_leaves_points_without_a_peak(heat: Tensor) -> None:
    points = torch.tensor([[[5.0, 4.0], [0.0, 0.0], [10.0, 10.0]]], dtype=heat.dtype)
    assert torch.equal(guarded_newton_step(heat, points)[0, 0], points[0, 0])
    assert guarded_newton_step(heat, points).isfinite().all()


@quick
@given(sizes, st.integers(0, 999))
def test_the_guarded_step_stays_on_the_grid_and_within_a_cell(size: tuple[int, int], seed: int) -> None:
    heat = maps(2, size, seed)
    y, x = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    every = torch.stack([x, y], -1).reshape(1, -1, 2).float().repeat(2, 1, 1)
    refined_points = guarded_newton_step(heat, every)
    assert (refined_points >= 0).all()
    assert (refined_points <= torch.tensor([size[1] - 1.0, size[0] - 1.0])).all()
    assert ((refined_points - every).abs() <= 1).all()


# ---------------------------------------------------------------- S1.2 to the letter


def newton_slowly(heat: np.ndarray, x: int, y: int) -> list[float]:
    """S1.2 word for word in double precision: samples outside the map are zero."""
    h, w = heat.shape
    v = lambda dx, dy: float(heat[y + dy, x + dx]) if 0 <= x + dx < w and 0 <= y + dy < h else 0.0  # noqa: E731
    g = np.array([(v(1, 0) - v(-1, 0)) / 2, (v(0, 1) - v(0, -1)) / 2])
    dxy = (v(1, 1) + v(-1, -1) - v(-1, 1) - v(1, -1)) / 4
    hessian = np.array([[v(1, 0) - 2 * v(0, 0) + v(-1, 0), dxy], [dxy, v(0, 1) - 2 * v(0, 0) + v(0, -1)]])
    step = -np.linalg.inv(hessian + 1e-6 * np.eye(2)) @ g
    return [float(k) for k in np.array([x, y]) + step.clip(-1, 1)]


@quick
@given(st.tuples(st.integers(2, 14), st.integers(2, 14)), st.integers(0, 999))
def test_the_step_of_the_paper_equals_a_plain_loop(size: tuple[int, int], seed: int) -> None:
    """At every cell, whatever the surface is there. Measured: 3e-11 of a cell."""
    heat = maps(1, size, seed).double()
    y, x = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    every = torch.stack([x, y], -1).reshape(1, -1, 2).double()
    refined_points = newton_step(heat, every)[0]
    expected = [newton_slowly(heat[0].numpy(), int(x), int(y)) for x, y in every[0].tolist()]
    assert refined_points.tolist() == [pytest.approx(point, abs=1e-6) for point in expected]


def test_the_step_of_the_paper_moves_points_that_the_guards_hold() -> None:
    """On a saddle, and off the grid at its border."""
    saddle, middle = quadratic(0.1, -0.1, 0.0, (5.3, 4.2)), torch.tensor([[[5.0, 4.0]]], dtype=torch.float64)
    assert guarded_newton_step(saddle, middle).tolist() == middle.tolist()
    assert newton_step(saddle, middle)[0, 0].tolist() == pytest.approx([5.3, 4.2], abs=1e-4)
    ramp = torch.tensor([[[4.0, 3.0, 1.0]]], dtype=torch.float64)
    assert newton_step(ramp, torch.zeros(1, 1, 2, dtype=torch.float64))[0, 0].tolist() == pytest.approx([0.3, 0])
    assert newton_step(ramp.flip(-1) * 0 + 1, torch.zeros(1, 1, 2, dtype=torch.float64)).isfinite().all()


def test_a_point_without_an_inverse_hessian_stays() -> None:
    points = torch.tensor([[[1.0, 1.0]]])
    flat = torch.full((1, 3, 3), 1e-6)  # H + epsilon I is not zero, and g is
    assert torch.equal(newton_step(flat, points), points)


@pytest.mark.parametrize("peak", [(0.0, 5.0), (10.0, 5.0), (5.0, 0.0), (5.0, 10.0), (0.0, 0.0), (10.0, 10.0)])
def test_a_peak_on_the_border_stays_there(peak: tuple[float, float]) -> None:
    heat = quadratic(-0.02, -0.02, 0.0, peak, top=2.0)
    assert guarded_newton_step(heat, torch.tensor([[peak]], dtype=torch.float64))[0, 0].tolist() == pytest.approx(
        peak, abs=1e-6
    )


def test_suppression_has_no_gradient_and_leaves_the_map_unchanged() -> None:
    heat = maps(1, (6, 6), 0).requires_grad_()
    before = heat.detach().clone()
    points, scores, _ = suppress(heat, 4, 1.0)
    assert not points.requires_grad
    assert not scores.requires_grad
    assert torch.equal(heat.detach(), before)
