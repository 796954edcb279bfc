"""The papers' protocols by name: from the outcome of each query to a plain dictionary of results.

Ratios are shares of one; `null` (None) where there is nothing to average. Intervals are 95 %, drawn over images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64

from seglens.core.metrics import (
    EPS_SUM,
    Contribution,
    Counts,
    bootstrap,
    bootstrap_ratio,
    gres_rule,
    lisa_rule,
    precision_at,
)
from seglens.core.names import check_name

PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
BOX_HIT = 0.5


@dataclass(frozen=True)
class QueryOutcome:
    """One query in pixels that count. `found` is the method's decision: false when it reports no target, even if it
    drew a mask. `kind` is the dataset's name for such queries (ReasonSeg: short, long). `boxes` is the IoU of the
    mask's box and the target's; None where there is no target."""

    id: str
    image: str
    kind: str
    found: bool
    intersection: int
    union: int
    predicted: int
    actual: int
    boxes: float | None = None


Rule = Callable[[Counts, Bool[torch.Tensor, " n"]], Contribution]
Extras = Callable[["Columns"], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Columns:
    """Outcomes as tensors. `images` numbers them; `refused` is not found; `boxes` are NaN where there is no target."""

    counts: Counts
    refused: Bool[torch.Tensor, " n"]
    images: Int64[torch.Tensor, " n"]
    boxes: Float64[torch.Tensor, " n"]

    @property
    def targeted(self) -> Bool[torch.Tensor, " n"]:
        return self.counts.actual > 0


def columns(outcomes: Sequence[QueryOutcome]) -> Columns:
    """The outcomes as tensors, in their order."""
    rows = torch.tensor([[o.intersection, o.union, o.predicted, o.actual] for o in outcomes], dtype=torch.int64)
    intersection, union, predicted, actual = rows.reshape(-1, 4).T
    number: dict[str, int] = {}
    images = torch.tensor([number.setdefault(o.image, len(number)) for o in outcomes], dtype=torch.int64)
    refused = torch.tensor([not o.found for o in outcomes], dtype=torch.bool)
    boxes = torch.tensor([math.nan if o.boxes is None else o.boxes for o in outcomes], dtype=torch.float64)
    return Columns(Counts(intersection, union, predicted, actual), refused, images, boxes)


@dataclass(frozen=True)
class Protocol:
    """A rule for every mask, and further numbers beside the two means."""

    rule: Rule
    extras: Extras
    eps: float = 0.0  # added to the sum of unions
    mean: bool = True  # report gIoU
    kinds: bool = False  # report every kind separately, too

    def __call__(self, outcomes: Sequence[QueryOutcome]) -> dict[str, Any]:
        report = self._report(outcomes)
        kinds = sorted({o.kind for o in outcomes})
        if self.kinds and len(kinds) > 1:
            report["by_kind"] = {kind: self._report([o for o in outcomes if o.kind == kind]) for kind in kinds}
        return report

    def _report(self, outcomes: Sequence[QueryOutcome]) -> dict[str, Any]:
        table = columns(outcomes)
        totals = self.totals(table)
        statistics = {"gIoU": mean_iou, "cIoU": self.cumulative} if self.mean else {"cIoU": self.cumulative}
        report: dict[str, Any] = {
            "queries": len(outcomes),
            "images": int(table.images.max()) + 1 if len(outcomes) else 0,
            "targeted": int(table.targeted.sum()),
            "no_target": int((~table.targeted).sum()),
        }
        for name, statistic in statistics.items():
            report[name] = _number(float(statistic(totals.sum(0)[None])))
            report[f"{name}_95"] = interval(bootstrap(totals, statistic, table.images))
        return {**report, **self.extras(table)}

    def totals(self, table: Columns) -> Float64[torch.Tensor, "n 4"]:
        """IoU, one, intersection and union of each query: both metrics are ratios of these columns' sums."""
        each = self.rule(table.counts, table.refused)
        return torch.stack([each.iou, torch.ones_like(each.iou), each.intersection.double(), each.union.double()], 1)

    def cumulative(self, totals: Float64[torch.Tensor, "r 4"]) -> Float64[torch.Tensor, " r"]:
        """cIoU of column sums; NaN for no query at all."""
        return torch.where(totals[:, 1] > 0, totals[:, 2] / (totals[:, 3] + self.eps), torch.nan)


def mean_iou(totals: Float64[torch.Tensor, "r 4"]) -> Float64[torch.Tensor, " r"]:
    """gIoU of column sums."""
    return totals[:, 0] / totals[:, 1]


def interval(ends: tuple[float, float]) -> list[float] | None:
    """Two ends for JSON: None where no interval can be drawn."""
    return None if any(map(math.isnan, ends)) else list(ends)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(hits: Bool[torch.Tensor, " n"]) -> float | None:
    return _number(hits.double().mean().item())


def _precisions(counts: Counts) -> dict[str, float | None]:
    return {f"P@{threshold}": _number(precision_at(counts, threshold)) for threshold in PRECISIONS}


def _presence(table: Columns) -> dict[str, float | None]:
    """N_acc = TP / (TP + FN) over queries without a target, T_acc = TN / (TN + FP) over those with one.

    The formulas of the GRES paper and of ReLA's present code; its first release printed other ratios under these names,
    and both print 0 where there is no such query."""
    return {"N_acc": _mean(table.refused[~table.targeted]), "T_acc": _mean(~table.refused[table.targeted])}


def _lisa_extras(table: Columns) -> dict[str, Any]:
    return {**_precisions(table.counts), **_presence(table)}


def _gres_extras(table: Columns) -> dict[str, Any]:
    # Pr@k counts targets only, and a refused one has IoU 0 whatever was drawn.
    counts, refused = table.counts[table.targeted], table.refused[table.targeted]
    counted = Counts(counts.intersection * ~refused, counts.union, counts.predicted, counts.actual)
    return {**_precisions(counted), **_presence(table)}


def _premise_extras(table: Columns) -> dict[str, Any]:
    right = (table.targeted != table.refused).double()
    return {
        "See": _number(right.mean().item()),
        "See_95": interval(bootstrap_ratio(right, torch.ones_like(right), table.images)),
        "See_true_premise": _mean(~table.refused[table.targeted]),
        "See_false_premise": _mean(table.refused[~table.targeted]),
    }


def _box_extras(table: Columns) -> dict[str, Any]:
    """The share of targets whose box is found: an IoU above one half, as MLLMSeg counts them."""
    known = ~table.boxes.isnan()
    hits = (table.boxes[known] > BOX_HIT).double()
    return {
        f"box_P@{BOX_HIT}": _number(hits.mean().item()),
        f"box_P@{BOX_HIT}_95": interval(bootstrap_ratio(hits, torch.ones_like(hits), table.images[known])),
    }


PROTOCOLS: dict[str, Protocol] = {
    # RefCOCO, RefCOCO+, RefCOCOg: every sentence of every reference. ReasonSeg: overall, short and long.
    "lisa": Protocol(lisa_rule, _lisa_extras, eps=EPS_SUM, kinds=True),
    "gres": Protocol(gres_rule, _gres_extras),
    # MLLMSeg (arXiv 2508.04107): referring expression comprehension by the boxes of masks, beside gIoU and cIoU.
    "rec": Protocol(lisa_rule, _box_extras, eps=EPS_SUM),
    # SESAME (arXiv 2312.08366): "See", and "Segment" pooled over true and false premises, whose ground truth is empty.
    "fp-refcoco": Protocol(lisa_rule, _premise_extras, eps=EPS_SUM, mean=False),
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises ValueError when there is none."""
    check_name(name, PROTOCOLS, "protocol")
    return PROTOCOLS[name]
