"""Segmentation metrics: pixel counts first, ratios last.

Counts can be summed over batches and machines; ratios cannot. Two published rules give what each mask contributes:
`lisa_rule` for RefCOCO and ReasonSeg (arXiv 2308.00692, its `train_ds.py`) and `gres_rule` for gRefCOCO (arXiv
2306.00968, `refer_evaluation.py` of ReLA). A ratio over no masks at all is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

# LISA's values, so that numbers can be compared with published ones; far below the one decimal that papers print. Its
# `AverageMeter.all_reduce` also adds 1e-5 to the number of masks, n, which lowers the mean by 1e-5 / n: less than the
# four decimals that LISA prints, and left out here.
EPS_MASK = 1e-5
EPS_SUM = 1e-10

BOOTSTRAP_MEMORY = 2**24  # numbers drawn at a time: 128 MB


@dataclass(frozen=True, eq=False)
class Counts:
    """Pixels of each of n predicted masks against its target."""

    intersection: Int64[Tensor, " n"]
    union: Int64[Tensor, " n"]
    predicted: Int64[Tensor, " n"]
    actual: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.union)

    def __getitem__(self, chosen: Bool[Tensor, " n"]) -> Counts:
        """The masks where ``chosen`` is true, as in ``counts[counts.actual > 0]``."""
        return Counts(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class Contribution:
    """What each of n masks contributes under a protocol: its IoU to the mean, its pixels to the cumulative sums."""

    iou: Float64[Tensor, " n"]
    intersection: Int64[Tensor, " n"]
    union: Int64[Tensor, " n"]


def overlap(
    prediction: Bool[Tensor, "n h w"],
    target: Bool[Tensor, "n h w"],
    ignore: Bool[Tensor, "n h w"] | None = None,
) -> Counts:
    """Count the pixels of each mask and of its target. Pixels of ``ignore`` are not counted, as 255 in LISA's maps."""
    if ignore is not None:
        prediction, target = prediction & ~ignore, target & ~ignore
    # rows first, in 32 bits: summing bools straight into 64 is 20 times slower on a CPU
    masks = (prediction & target, prediction, target)
    shared, predicted, true = (mask.sum(-1, dtype=torch.int32).sum(-1) for mask in masks)
    return Counts(shared, predicted + true - shared, predicted, true)


def iou(counts: Counts) -> Float64[Tensor, " n"]:
    """Intersection over union of each mask by LISA's rule; 1 where mask and target are both empty."""
    return counts.intersection / (counts.union.double() + EPS_MASK) + (counts.union == 0)


def lisa_rule(counts: Counts, refused: Bool[Tensor, " n"]) -> Contribution:
    """LISA's rule: only the masks count, so ``refused`` changes nothing."""
    return Contribution(iou(counts), counts.intersection, counts.union)


def gres_rule(counts: Counts, refused: Bool[Tensor, " n"]) -> Contribution:
    """gRefCOCO's official rule; ``refused`` is the method's decision "no target", whatever its mask holds.

    No target and refused: IoU 1, nothing to the sums; no target and not refused: IoU 0, the mask to the unions. A
    target that is refused: IoU and intersection 0, and the union stays that of mask and target, as in ReLA's code (a
    method that refuses and still draws a mask pays for both). There are no epsilons in ReLA, nor here."""
    absent = counts.actual == 0
    intersection = counts.intersection * ~(absent | refused)
    union = counts.union * ~(absent & refused)
    ratio = intersection / union.clamp(min=1).double() + (absent & refused).double()
    return Contribution(ratio, intersection, union)


def giou(counts: Counts) -> float:
    """Mean IoU over masks (the "gIoU" of LISA)."""
    return iou(counts).mean().item()


def ciou(counts: Counts) -> float:
    """Cumulative IoU: sum of intersections over sum of unions, so large objects weigh more."""
    return counts.intersection.sum().item() / (counts.union.sum().item() + EPS_SUM) if len(counts) else float("nan")


def precision_at(counts: Counts, threshold: float) -> float:
    """Share of masks whose IoU reaches ``threshold``; gRefCOCO counts targeted ones, ``counts[counts.actual > 0]``."""
    # On the counts, not on `iou`, whose epsilon would fail a mask that lies exactly on the threshold; divided, because
    # 7 / 10 is the float 0.7, while 0.7 * union may round up.
    ratio = counts.intersection / counts.union.double()
    return ((ratio >= threshold) | (counts.union == 0)).double().mean().item()


Extent = tuple[float, float, float, float]  # left, top, right, bottom


def extent(mask: Bool[np.ndarray, "h w"]) -> Extent | None:
    """The numbers of the outermost columns and rows with a pixel of the mask; None for an empty one."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return (float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])) if len(rows) else None


def true_extent(drawn: Extent | None, box: tuple[float, float, float, float] | None) -> Extent | None:
    """The extent of a target: of the annotation's `box` (x, y, width, height) where it has one, else of its mask."""
    return drawn if box is None else (box[0], box[1], box[0] + box[2], box[1] + box[3])


def box_iou(one: Extent | None, other: Extent | None) -> float:
    """Intersection over union of two boxes, 0 where one is missing or the two do not overlap.

    MLLMSeg's rule for referring expression comprehension: a mask's box ends at the number of its last pixel, so that it
    is a pixel narrower than an annotation's."""
    if one is None or other is None:
        return 0.0
    width, height = (min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def class_counts(predicted: Int64[Tensor, " n"], actual: Int64[Tensor, " n"], classes: int) -> Int64[Tensor, "k 3"]:
    """Intersection, union and ground-truth pixels of each of ``classes`` classes, from the labels of n pixels.

    A label outside 0..classes-1 (255) in ``actual`` is not counted."""
    counted = (actual >= 0) & (actual < classes)
    predicted, actual = predicted[counted], actual[counted]
    shared, claimed, true = (
        torch.bincount(labels, minlength=classes) for labels in (actual[predicted == actual], predicted, actual)
    )
    return torch.stack([shared, claimed + true - shared, true], 1)


def miou(totals: Float[Tensor, "*r k 3"] | Int64[Tensor, "*r k 3"]) -> Float64[Tensor, "*r"]:
    """Mean IoU over the classes that occur in the ground truth, from summed `class_counts`; NaN when none does."""
    shared, union, true = totals.double().unbind(-1)
    return torch.where(true > 0, shared / union, torch.nan).nanmean(-1)


def bootstrap(
    values: Float[Tensor, "n k"],
    statistic: Callable[[Float[Tensor, "r k"]], Float[Tensor, " r"]],
    groups: Int[Tensor, " n"] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of a ``statistic`` of the k column totals of ``values``.

    Every metric here is a function of totals, and so is the difference of two methods' metrics (a paired bootstrap).
    With ``groups`` (an image id per row) whole groups are drawn: masks of one image are correlated, and drawing them
    one by one would make the interval too narrow. Resamples in which the statistic is NaN are left out; both ends
    are NaN when none remains. The interval depends on ``seed`` alone, not on how many resamples are drawn at a time.
    """
    values = values.cpu().double()
    if groups is not None:
        ids, group = torch.unique(groups.cpu(), return_inverse=True)
        values = values.new_zeros(len(ids), values.shape[1]).index_add(0, group, values)
    if not len(values):
        return float("nan"), float("nan")
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, BOOTSTRAP_MEMORY // values.numel())
    sizes = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    draws = (torch.randint(len(values), (size, len(values)), generator=generator) for size in sizes)
    statistics = torch.cat([statistic(values[drawn].sum(1)) for drawn in draws])
    low, high = statistics.nanquantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def bootstrap_ratio(
    numerator: Float[Tensor, " n"],
    denominator: Float[Tensor, " n"],
    groups: Int[Tensor, " n"] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of sum(numerator) / sum(denominator): cIoU directly, a mean such as gIoU with a denominator of
    ones."""
    columns = torch.stack([numerator, denominator], 1)
    return bootstrap(columns, lambda totals: totals[:, 0] / totals[:, 1], groups, resamples, seed)
