"""The records of an evaluation in numbers: by a paper's protocol, or by kind and size for the drawn world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from seglens.core.metrics import bootstrap_ratio, ciou, giou, iou, precision_at
from seglens.evaluation.protocols import columns, find_protocol
from seglens.evaluation.records import Record
from seglens.world.world import SMALL

# Area of the target as a share of the image: names and upper bounds (exclusive)
SIZES = {"small": SMALL, "medium": 0.05, "large": float("inf")}
WORLD = "world"  # the report of the drawn world: kinds, sizes, keypoints, presence


def results(records: Sequence[Record], protocol: str) -> dict[str, Any]:
    """The report of a protocol of `PROTOCOLS`, or "world" for `summarise`. Raises ValueError on any other name."""
    return summarise(list(records)) if protocol == WORLD else find_protocol(protocol)([r.outcome for r in records])


def understood(records: Sequence[Record]) -> dict[str, Any]:
    """How much of the data the model does not understand, and refuses: the share of unfamiliar images (None: the model
    cannot decide) and that of queries with unknown words."""
    images = {record.image: record.familiar for record in records}
    return {
        "images": len(images),
        "unfamiliar": _share([float(not known) for known in images.values() if known is not None]),
        "queries_with_unknown_words": _share([float(bool(record.unknown_words)) for record in records]),
    }


def summarise(records: list[Record]) -> dict[str, Any]:
    """gIoU, cIoU and P@0.5 of the queries with a target, by kind and by size, with 95 % intervals over images;
    keypoints; and how well absence is recognised."""
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


def _scores(records: list[Record]) -> dict[str, Any] | None:
    if not records:
        return None
    table = columns([r.outcome for r in records])
    counts, images = table.counts, table.images
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
