"""What came of one query of an evaluation, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from seglens.core.metrics import box_iou, extent, overlap, true_extent
from seglens.core.types import Sample, Target
from seglens.data.masks import encode_rle
from seglens.evaluation.protocols import QueryOutcome
from seglens.inference.prediction import Prediction, on_mask


@dataclass(frozen=True)
class Record:
    """One query: pixel counts of the mask that is returned, and of the mask drawn before absence was judged.

    `id` is the sample's and, after a slash, the target's, or the number of the query where the target has no id or
    shares it. `masks`, stored on request, are the run lengths of prediction, target and ignored pixels, and the box of
    the target's annotation."""

    id: str
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
    familiar: bool | None = None  # of the picture, as in `Prediction`
    unknown_words: tuple[str, ...] = ()
    boxes: float | None = None  # IoU of the mask's box and the target's; None without a target
    masks: dict[str, Any] | None = None

    @property
    def outcome(self) -> QueryOutcome:
        # Of the mask that a user gets: a refused query has none, so GRES adds only its target to the unions.
        return QueryOutcome(
            self.id,
            self.image,
            self.kind,
            self.found,
            self.intersection,
            self.union,
            self.predicted,
            self.actual,
            self.boxes,
        )


def read_record(row: dict[str, Any]) -> Record:
    """A record from the plain values of JSON."""
    return Record(**{**row, "unknown_words": tuple(row["unknown_words"])})


def numbered(records: list[Record]) -> list[Record]:
    """Records without an id get one from the image and the number of the query about it, which counts on where a
    dataset has an image twice. All ids are different."""
    places: Counter[str] = Counter()
    taken = {record.id for record in records if record.id}
    used = set[str]()
    named = []
    for record in records:
        number = places[record.image]
        places[record.image] += 1
        name = record.id
        while not name or name in used:
            name = f"{record.image}/{number}"
            name, number = ("" if name in taken else name), number + 1
        used.add(name)
        named.append(replace(record, id=name))
    return named


def record_of(sample: Sample, target: Target, prediction: Prediction, threshold: float, masks: bool = False) -> Record:
    drawn = torch.from_numpy(np.stack([prediction.mask, prediction.drawn(threshold)]))
    ignore = None if target.ignore is None else torch.from_numpy(target.ignore).expand_as(drawn)
    counts = overlap(drawn, torch.from_numpy(target.mask).expand_as(drawn), ignore)
    inside = on_mask(target.mask, prediction.keypoints)
    return Record(
        id="",
        image=sample.id,
        query=target.query,
        kind=target.kind,
        present=target.present,
        found=prediction.found,
        presence=prediction.presence,
        area=float(target.mask.mean()),
        intersection=int(counts.intersection[0]),
        union=int(counts.union[0]),
        predicted=int(counts.predicted[0]),
        actual=int(counts.actual[0]),
        drawn_intersection=int(counts.intersection[1]),
        drawn_union=int(counts.union[1]),
        strongest_inside=bool(inside[0]) if target.present and len(inside) else None,
        keypoints=len(inside),
        keypoints_inside=int(inside.sum()),
        familiar=prediction.familiar,
        unknown_words=prediction.unknown_words,
        boxes=box_iou(extent(prediction.mask), true_extent(extent(target.mask), target.box))
        if target.present
        else None,
        masks=_runs(target, prediction) if masks else None,
    )


def _runs(target: Target, prediction: Prediction) -> dict[str, Any]:
    ignore = {} if target.ignore is None else {"ignore": encode_rle(target.ignore)}
    box = {} if target.box is None else {"box": list(target.box)}
    return {"prediction": encode_rle(prediction.mask), "target": encode_rle(target.mask), **ignore, **box}


def prediction_lines(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The records that hold their masks, in the form of `seglens score`."""
    return [
        {"id": r.id, "image": r.image, "kind": r.kind, "query": r.query, "no_target": not r.found, **r.masks}
        for r in records
        if r.masks is not None
    ]


def as_json(records: list[Record]) -> list[dict[str, Any]]:
    """The records as plain values, one dict per query, without masks."""
    return [{name: value for name, value in asdict(r).items() if name != "masks"} for r in records]
