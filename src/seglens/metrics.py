"""Segmentation metrics: pixel counts first, ratios last.

Counts add up over batches and machines; ratios do not. One rule serves RefCOCO, ReasonSeg and gRefCOCO: LISA's
(arXiv 2308.00692, its `train_ds.py`), which for masks that decide "no target" by being empty is also the official
gRefCOCO rule (arXiv 2306.00968). A ratio over no masks at all is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

# LISA's own, so that numbers can be compared with published ones; far below the one decimal that papers print.
EPS_MASK = 1e-5
EPS_SUM = 1e-10


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


def overlap(prediction: Bool[Tensor, "n h w"], target: Bool[Tensor, "n h w"]) -> Counts:
    """Count the pixels of each mask and of its target."""
    pairs = (prediction & target, prediction | target, prediction, target)
    return Counts(*(mask.sum((-2, -1)) for mask in pairs))


def iou(counts: Counts) -> Float[Tensor, " n"]:
    """Intersection over union of each mask; 1 where mask and target are both empty."""
    return counts.intersection / (counts.union.double() + EPS_MASK) + (counts.union == 0)


def giou(counts: Counts) -> float:
    """Mean IoU over masks (the "gIoU" of LISA and GRES)."""
    return iou(counts).mean().item()


def ciou(counts: Counts) -> float:
    """Cumulative IoU: sum of intersections over sum of unions, so large objects weigh more."""
    return counts.intersection.sum().item() / (counts.union.sum().item() + EPS_SUM) if len(counts) else float("nan")


def precision_at(counts: Counts, threshold: float) -> float:
    """Share of masks whose IoU reaches ``threshold``; gRefCOCO counts targeted ones, ``counts[counts.actual > 0]``."""
    # On the counts, not on `iou`, whose epsilon would fail a mask that lies exactly on the threshold.
    return (counts.intersection >= threshold * counts.union.double()).double().mean().item()


def bootstrap(
    values: Float[Tensor, "n k"],
    statistic: Callable[[Float[Tensor, "r k"]], Float[Tensor, " r"]],
    groups: Int[Tensor, " n"] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of a ``statistic`` of the k column totals of ``values``.

    Every metric here is a function of totals, and so is the difference of two methods' metrics (a paired bootstrap).
    With ``groups`` (an image id per row) whole groups are drawn: masks of one image rise and fall together, and drawing
    them one by one would make the interval too narrow. Resamples in which the statistic is NaN are left out; both ends
    are NaN when none remains. Memory: resamples x groups x k doubles.
    """
    values = values.cpu().double()
    if groups is not None:
        ids, group = torch.unique(groups.cpu(), return_inverse=True)
        values = values.new_zeros(len(ids), values.shape[1]).index_add(0, group, values)
    if not len(values):
        return float("nan"), float("nan")
    drawn = torch.randint(len(values), (resamples, len(values)), generator=torch.Generator().manual_seed(seed))
    low, high = statistic(values[drawn].sum(1)).nanquantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def bootstrap_ratio(
    numerator: Float[Tensor, " n"],
    denominator: Float[Tensor, " n"],
    groups: Int[Tensor, " n"] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of sum(numerator) / sum(denominator): cIoU as it stands, a mean such as gIoU with ones below."""
    columns = torch.stack([numerator, denominator], 1)
    return bootstrap(columns, lambda totals: totals[:, 0] / totals[:, 1], groups, resamples, seed)
