"""A segmenter against a dataset: what a user gets, counted at the image's own size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from seglens.metrics import Counts, bootstrap_ratio, ciou, giou, iou, overlap, precision_at
from seglens.miniature.world import SMALL
from seglens.prediction import Prediction, on_mask
from seglens.segmenter import Segmenter
from seglens.types import Sample, Target

# Area of the target as a share of the image: names and upper bounds (exclusive)
SIZES = {"small": SMALL, "medium": 0.05, "large": float("inf")}


@dataclass(frozen=True)
class Record:
    """One query: pixel counts of the mask given, and of the mask drawn before absence was judged."""

    image: str
    query: str
    kind: str
    present: bool
    found: bool
    presence: float | None
    area: float  # of the target, as a share of the image
    intersection: int
    union: int
    predicted: int
    actual: int
    drawn_intersection: int
    drawn_union: int
    strongest_inside: bool | None  # None without keypoints or without a target
    keypoints: int
    keypoints_inside: int


def run(segmenter: Segmenter, data: Iterable[Sample], tick: Callable[[], None] = lambda: None) -> list[Record]:
    """Ask every query of every sample; all queries about an image in one pass."""
    records = []
    for sample in data:
        predictions = segmenter.open(sample.image).segment([t.query for t in sample.targets])
        pairs = zip(sample.targets, predictions, strict=True)
        records += [_record(sample, target, p, segmenter.mask_threshold) for target, p in pairs]
        tick()
    return records


def _record(sample: Sample, target: Target, said: Prediction, threshold: float) -> Record:
    drawn = torch.from_numpy(np.stack([said.mask, said.mask_logits > threshold]))
    counts = overlap(drawn, torch.from_numpy(target.mask).expand_as(drawn))
    inside = on_mask(target.mask, said.keypoints)
    return Record(
        image=sample.id, query=target.query, kind=target.kind, present=target.present, found=said.found,
        presence=said.presence, area=float(target.mask.mean()),
        intersection=int(counts.intersection[0]), union=int(counts.union[0]), predicted=int(counts.predicted[0]),
        actual=int(counts.actual[0]), drawn_intersection=int(counts.intersection[1]), drawn_union=int(counts.union[1]),
        strongest_inside=bool(inside[0]) if target.present and len(inside) else None,
        keypoints=len(inside), keypoints_inside=int(inside.sum()),
    )  # fmt: skip


def summarise(records: list[Record]) -> dict[str, Any]:
    """gIoU, cIoU and P@0.5 of the queries with a target, by kind and by size, with 95 % intervals over images;
    keypoints; and how well absence is judged."""
    present = [r for r in records if r.present]
    kinds = sorted({r.kind for r in present})
    return {
        "queries": len(records),
        "images": len({r.image for r in records}),
        "with_target": _scores(present),
        "by_kind": {kind: _scores([r for r in present if r.kind == kind]) for kind in kinds},
        "by_size": {size: _scores([r for r in present if _size(r) == size]) for size in SIZES},
        "reasoning_all": _scores([r for r in present if r.kind.startswith("reasoning")]),
        "drawn_gIoU": _share([r.drawn_intersection / max(1, r.drawn_union) for r in present]),
        "keypoints": _keypoints(present),
        "presence": _presence(records),
    }


def _size(record: Record) -> str:
    return next(name for name, bound in SIZES.items() if record.area < bound)


def _counts(records: list[Record]) -> Counts:
    rows = torch.tensor([[r.intersection, r.union, r.predicted, r.actual] for r in records], dtype=torch.int64)
    intersection, union, predicted, actual = rows.T
    return Counts(intersection, union, predicted, actual)


def _scores(records: list[Record]) -> dict[str, Any] | None:
    if not records:
        return None
    counts = _counts(records)
    images = _ids(records)
    per_mask = iou(counts)
    interval = bootstrap_ratio(per_mask, torch.ones_like(per_mask), images)
    cumulative = bootstrap_ratio(counts.intersection.double(), counts.union.double(), images)
    return {
        "n": len(records),
        "gIoU": round(giou(counts), 4),
        "gIoU_95": [round(v, 4) for v in interval],
        "cIoU": round(ciou(counts), 4),
        "cIoU_95": [round(v, 4) for v in cumulative],
        "P@0.5": round(precision_at(counts, 0.5), 4),
    }


def _ids(records: list[Record]) -> Int64[torch.Tensor, " n"]:
    number: dict[str, int] = {}
    return torch.tensor([number.setdefault(r.image, len(number)) for r in records])


def _share(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _keypoints(present: list[Record]) -> dict[str, float | None]:
    total = sum(r.keypoints for r in present)
    return {
        "strongest_inside": _share([float(r.strongest_inside) for r in present if r.strongest_inside is not None]),
        "inside": round(sum(r.keypoints_inside for r in present) / total, 4) if total else None,
        "per_query": round(total / len(present), 2) if present else None,
    }


def _presence(records: list[Record]) -> dict[str, Any]:
    """Refusals as detections of absence: precision and recall, and the share of present targets that are kept."""
    absent = [r for r in records if not r.present]
    present = [r for r in records if r.present]
    refused = [r for r in records if not r.found]
    return {
        "absent": len(absent),
        "absent_refused": _share([float(not r.found) for r in absent]),
        "present_kept": _share([float(r.found) for r in present]),
        "refusal_precision": _share([float(not r.present) for r in refused]),
    }


def as_json(records: list[Record]) -> list[dict[str, Any]]:
    """The records as plain values, one dict per query."""
    return [asdict(r) for r in records]
