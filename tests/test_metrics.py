"""Metrics against small tables, the protocols' own code, and statistics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seglens.metrics import (
    bootstrap,
    bootstrap_ratio,
    ciou,
    giou,
    iou,
    overlap,
    precision_at,
)


def rows(*lines: str) -> torch.Tensor:
    """Masks of one row each, drawn as ``#`` and ``.``."""
    return torch.tensor([[[character == "#" for character in line]] for line in lines])


PREDICTION = rows("##..", "####", "....", "#...", "....", "..##")
TARGET = rows(".##.", "####", "##..", "....", "....", "..#.")


def test_small_table() -> None:
    counts = overlap(PREDICTION, TARGET)
    assert counts.intersection.tolist() == [1, 4, 0, 0, 0, 1]
    assert counts.union.tolist() == [3, 4, 2, 1, 0, 2]
    assert counts.predicted.tolist() == [2, 4, 0, 1, 0, 2]
    assert counts.actual.tolist() == [2, 4, 2, 0, 0, 1]
    assert iou(counts).tolist() == pytest.approx([1 / 3, 1, 0, 0, 1, 1 / 2], abs=1e-5)
    assert giou(counts) == pytest.approx((1 / 3 + 2.5) / 6, abs=1e-5)
    assert ciou(counts) == pytest.approx(6 / 12)
    assert precision_at(counts, 0.5) == pytest.approx(3 / 6)  # an IoU of exactly one half reaches one half
    assert precision_at(counts[counts.actual > 0], 0.9) == 1 / 4


@settings(deadline=None, database=None, max_examples=40)
@given(st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_lisas_histograms_give_the_same(seed: int, density: float) -> None:
    """`intersectionAndUnionGPU` of LISA's `utils/utils.py`, by its definition, on labels 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(2, (4, 3, 3), generator=generator)
    prediction = torch.rand(4, 3, 3, generator=generator) < density * density
    per_mask, intersections, unions = [], 0, 0
    for output, label in zip(prediction.long(), target, strict=True):
        shared = ((output == label) & (output == 1)).sum().item()
        union = (output == 1).sum().item() + (label == 1).sum().item() - shared
        per_mask.append(shared / (union + 1e-5) + (union == 0))
        intersections, unions = intersections + shared, unions + union
    counts = overlap(prediction, target == 1)
    assert giou(counts) == pytest.approx(sum(per_mask) / 4, abs=1e-12)
    assert ciou(counts) == pytest.approx(intersections / (unions + 1e-10), abs=1e-12)


def test_a_ratio_of_nothing_is_nan() -> None:
    nothing = overlap(PREDICTION, TARGET)[torch.zeros(6, dtype=torch.bool)]
    assert len(nothing) == 0
    assert all(math.isnan(metric(nothing)) for metric in (giou, ciou))
    assert all(map(math.isnan, bootstrap_ratio(torch.zeros(0), torch.zeros(0))))
    assert all(map(math.isnan, bootstrap_ratio(torch.zeros(3), torch.zeros(3))))


def test_bootstrap_is_reproducible_by_seed() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(50)
    assert bootstrap_ratio(values, ones, seed=3) == bootstrap_ratio(values, ones, seed=3)
    assert bootstrap_ratio(values, ones, seed=3) != bootstrap_ratio(values, ones, seed=4)


def test_bootstrap_is_the_normal_interval_of_a_mean() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap_ratio(values, torch.ones(400), resamples=4000)
    half = 1.96 * values.std().item() / 20
    assert low == pytest.approx(values.mean().item() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean().item() + half, abs=0.1 * half)


def test_bootstrap_covers() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(120, 80, generator=generator)
    intervals = [bootstrap_ratio(sample, torch.ones(80), resamples=200, seed=i) for i, sample in enumerate(samples)]
    covered = sum(low <= 0.5 <= high for low, high in intervals) / len(intervals)
    assert 0.87 <= covered <= 1  # 0.95, give or take four standard errors


def test_groups_are_drawn_whole() -> None:
    base = torch.rand(30, generator=torch.Generator().manual_seed(2))
    values, ids = base.repeat_interleave(10), torch.arange(30).repeat_interleave(10) * 1000 - 7
    grouped = bootstrap_ratio(values, torch.ones(300), ids)
    assert grouped == pytest.approx(bootstrap_ratio(base, torch.ones(30)))  # ten copies say no more than one
    alone = bootstrap_ratio(values, torch.ones(300))
    assert alone[1] - alone[0] < 0.5 * (grouped[1] - grouped[0])


def test_ratio_weighs_by_the_denominator() -> None:
    counts = overlap(PREDICTION, TARGET)
    low, high = bootstrap_ratio(counts.intersection.double(), counts.union.double(), resamples=2000)
    assert 0 <= low < ciou(counts) < high <= 1
    assert bootstrap_ratio(torch.full((9,), 2.0), torch.full((9,), 4.0)) == (0.5, 0.5)


def test_paired_difference_of_two_methods() -> None:
    a = torch.rand(60, generator=torch.Generator().manual_seed(5))
    columns = torch.stack([a + 0.01, a, torch.ones(60)], 1)
    low, high = bootstrap(columns, lambda totals: (totals[:, 0] - totals[:, 1]) / totals[:, 2])
    assert low == pytest.approx(0.01, abs=1e-6)
    assert high == pytest.approx(0.01, abs=1e-6)
