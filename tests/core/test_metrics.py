"""Metrics against small tables, the protocols' own code, and statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import published
from seglens.core.metrics import (
    Counts,
    bootstrap,
    bootstrap_ratio,
    box_iou,
    ciou,
    class_counts,
    extent,
    giou,
    gres_rule,
    iou,
    miou,
    overlap,
    precision_at,
    true_extent,
)
from seglens.evaluation.protocols import PRECISIONS


def rows(*lines: str) -> torch.Tensor:
    """Masks of one row each, drawn as ``#`` and ``.``."""
    return torch.tensor([[[character == "#" for character in line]] for line in lines])


PREDICTION = rows("##..", "####", "....", "#...", "....", "..##")
TARGET = rows(".##.", "####", "##..", "....", "....", "..#.")


def test_boxes_of_masks_as_mllmseg_has_them() -> None:
    """Rows 5 to 14 and columns 10 to 19 against the annotation's box of the same square: 81 of 100, because the mask's
    ends at the number of its last pixel; against its own mask's: 1. The numbers are those of its test script."""
    mask = np.zeros((40, 60), bool)
    assert extent(mask) is None
    mask[5:15, 10:20] = True
    assert extent(mask) == (10, 5, 19, 14)
    square, beside = true_extent(None, (10.0, 5.0, 10.0, 10.0)), true_extent(None, (30.0, 5.0, 10.0, 10.0))
    assert box_iou(extent(mask), square) == pytest.approx(0.81)
    assert box_iou(extent(mask), true_extent(extent(mask), None)) == 1
    assert box_iou(extent(mask), true_extent(None, (14.5, 5.0, 9.0, 9.0))) == pytest.approx(40.5 / (81 + 81 - 40.5))
    assert box_iou(extent(mask), beside) == box_iou(None, square) == box_iou(square, None) == 0
    assert box_iou((3.0, 3.0, 3.0, 3.0), (3.0, 3.0, 3.0, 3.0)) == 0  # one pixel has no area there


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


masks = st.tuples(st.integers(0, 2**31 - 1), st.floats(0, 1), st.integers(1, 6))


def random_masks(seed: int, density: float, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, targets and ignored pixels of n images of 5 x 4, often empty or full; and refusals."""
    dice = np.random.default_rng(seed)
    prediction, target, ignore = (dice.random((n, 5, 4)) < density * dice.integers(0, 2, (n, 1, 1)) for _ in range(3))
    return prediction, target, ignore, dice.random(n) < 0.5


@settings(deadline=None, database=None, max_examples=100)
@given(masks)
def test_lisas_histograms_give_the_same(case: tuple[int, float, int]) -> None:
    prediction, target, ignore, _ = random_masks(*case)
    label_maps = np.where(ignore, published.IGNORED, target)
    mean, cumulative, printed = published.lisa(list(prediction), list(label_maps))
    counts = overlap(*map(torch.from_numpy, (prediction, target, ignore)))
    assert giou(counts) == pytest.approx(mean, abs=1e-12)
    assert ciou(counts) == pytest.approx(cumulative, abs=1e-12)
    assert 0 <= giou(counts) - printed <= 1e-5 / len(target)  # what the meter's own epsilon takes off


@settings(deadline=None, database=None, max_examples=100)
@given(masks)
def test_relas_loop_gives_the_same(case: tuple[int, float, int]) -> None:
    prediction, target, _, refused = random_masks(*case)
    expected = published.rela(list(prediction), list(target), refused.tolist())
    each = gres_rule(overlap(torch.from_numpy(prediction), torch.from_numpy(target)), torch.from_numpy(refused))
    assert each.iou.mean().item() == pytest.approx(expected["gIoU"], abs=1e-12)
    if expected["cIoU"] is None:
        assert each.union.sum() == 0
    else:
        assert (each.intersection.sum() / each.union.sum()).item() == pytest.approx(expected["cIoU"], abs=1e-6)


def test_gres_table() -> None:
    """Target or none, refused or not, with and without a mask."""
    prediction = rows("##..", "....", "##..", "##..", "....", "##..", "....")
    target = rows("....", "....", "....", ".##.", ".##.", ".##.", ".##.")
    refused = torch.tensor([True, True, False, False, False, True, True])
    each = gres_rule(overlap(prediction, target), refused)
    assert each.iou.tolist() == pytest.approx([1, 1, 0, 1 / 3, 0, 0, 0])
    assert each.intersection.tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert each.union.tolist() == [0, 0, 2, 3, 2, 3, 2]  # a refused target pays for what was drawn all the same


def test_ignored_pixels_count_nowhere() -> None:
    ignore = rows("#...", "..##", "####", "...#", "....", "...#")
    counts = overlap(PREDICTION, TARGET, ignore)
    assert counts.intersection.tolist() == [1, 2, 0, 0, 0, 1]
    assert counts.union.tolist() == [2, 2, 0, 1, 0, 1]
    assert counts.predicted.tolist() == [1, 2, 0, 1, 0, 1]
    assert counts.actual.tolist() == [2, 2, 0, 0, 0, 1]
    assert iou(counts)[2] == 1  # all of it ignored: nothing to find, nothing found


@pytest.mark.parametrize("threshold", PRECISIONS)
def test_an_iou_on_the_threshold_reaches_it(threshold: float) -> None:
    tenths = round(10 * threshold)
    union = torch.arange(10, 30000, 10)
    intersection = union // 10 * tenths
    assert precision_at(Counts(intersection, union, intersection, union), threshold) == 1
    assert precision_at(Counts(intersection - 1, union, intersection, union), threshold) == 0


def test_classes_by_pixels() -> None:
    actual = torch.tensor([0, 0, 0, 1, 1, 255, -1, 255])
    predicted = torch.tensor([0, 0, 2, 1, 0, 1, 0, 2])
    counts = class_counts(predicted, actual, 4)
    assert counts.tolist() == [[2, 4, 3], [1, 2, 2], [0, 1, 0], [0, 0, 0]]
    assert miou(counts).item() == pytest.approx((2 / 4 + 1 / 2) / 2)  # class 2 was predicted but does not occur
    assert miou(torch.stack([counts, 2 * counts])).tolist() == pytest.approx([0.5, 0.5])
    assert math.isnan(miou(torch.zeros(4, 3)).item())


@settings(deadline=None, database=None, max_examples=50)
@given(st.integers(0, 2**31 - 1), st.integers(1, 5))
def test_classes_against_masks(seed: int, classes: int) -> None:
    dice = torch.Generator().manual_seed(seed)
    predicted, actual = (torch.randint(classes, (40,), generator=dice) for _ in range(2))
    actual[torch.rand(40, generator=dice) < 0.2] = 255
    one_hot = [torch.stack([labels == k for k in range(classes)])[:, None] for labels in (predicted, actual)]
    counts = overlap(*one_hot, (actual == 255).expand(classes, 1, 40))
    rows_of = torch.stack([counts.intersection, counts.union, counts.actual], 1)
    assert torch.equal(class_counts(predicted, actual, classes), rows_of)


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


def test_bootstrap_does_not_depend_on_the_memory_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    values, ids = torch.rand(90, 3, generator=torch.Generator().manual_seed(1)), torch.arange(90) // 4
    whole = bootstrap(values, lambda totals: totals[:, 0] / totals[:, 1], ids, resamples=101)
    for memory in (1, 500, 7 * 23 * 3):
        monkeypatch.setattr("seglens.core.metrics.BOOTSTRAP_MEMORY", memory)
        assert bootstrap(values, lambda totals: totals[:, 0] / totals[:, 1], ids, resamples=101) == whole


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
    assert grouped == pytest.approx(bootstrap_ratio(base, torch.ones(30)))  # ten copies add no information
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
