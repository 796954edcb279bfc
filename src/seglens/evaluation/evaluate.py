"""A segmenter against a dataset: what a user gets, counted at the image's own size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from seglens.core.distributed import Ranks
from seglens.core.metrics import bootstrap_ratio, box_iou, ciou, extent, giou, iou, overlap, precision_at, true_extent
from seglens.core.types import Sample, Target
from seglens.data import Dataset
from seglens.data.faults import RecordFault
from seglens.data.head_prompt import prompt_kind
from seglens.data.masks import encode_rle
from seglens.evaluation.protocols import QueryOutcome, columns, find_protocol
from seglens.evaluation.shared_answers import AnswerJournal, ask_all
from seglens.inference.prediction import Prediction, on_mask
from seglens.inference.segmenter import Segmenter
from seglens.world.world import SMALL

# Area of the target as a share of the image: names and upper bounds (exclusive)
SIZES = {"small": SMALL, "medium": 0.05, "large": float("inf")}
WORLD = "world"  # the report of the drawn world: kinds, sizes, keypoints, presence


@dataclass(frozen=True)
class Record:
    """One query: pixel counts of the mask given, and of the mask drawn before absence was judged.

    `id` is the sample's and, after a slash, the target's own, or the number of the query in it where it has none or
    shares it. `masks`, kept on request, are the run lengths of prediction, target and ignored pixels, and the
    target's own box."""

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
        # Of the mask that a user gets: a refused query shows none, so GRES adds its target alone to the unions.
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


@dataclass(frozen=True)
class Run:
    """The records of a dataset in its order, what the dataset leaves out, and what else could not be asked."""

    records: list[Record]
    faults: list[RecordFault]
    damaged: list[RecordFault]


def run(
    segmenter: Segmenter, data: Iterable[Sample], tick: Callable[[], None] = lambda: None, masks: bool = False
) -> list[Record]:
    """Ask every query of every sample; all queries about an image in one pass. `masks` keeps them, as run lengths."""
    records = []
    for sample in data:
        records += _ask(segmenter, sample, masks)
        tick()
    return _numbered(records)


def run_shared(
    segmenter: Segmenter,
    data: Dataset,
    ranks: Ranks,
    tick: Callable[[], None] = lambda: None,
    masks: bool = False,
    kept: AnswerJournal | None = None,
    told: Callable[[list[Record]], None] = lambda records: None,
) -> Run | None:
    """`run` over this process's share of `data`. The first rank returns what all ranks found, the same as one process
    would; the others None. What is `kept` is not asked again; `told` is given the records of a sample as they come.

    A sample that cannot be used ends nothing. Raises its error when there is no other."""
    found = ask_all(
        data,
        lambda sample: [asdict(one) for one in _ask(segmenter, sample, masks)],
        ranks,
        tick,
        kept,
        lambda rows: told(_numbered(list(map(_read, rows)))),
    )
    if found is None:
        return None
    return Run(_numbered([_read(one) for rows in found.rows for one in rows]), found.faults, found.damaged)


def _read(row: dict[str, Any]) -> Record:
    """A record that JSON may have held."""
    return Record(**{**row, "unknown_words": tuple(row["unknown_words"])})


def _ask(segmenter: Segmenter, sample: Sample, masks: bool) -> list[Record]:
    sample = sample.drawn()
    opened = segmenter.open(sample.image)
    predictions = opened.predictions_as([t.query for t in sample.targets], list(map(prompt_kind, sample.targets)))
    pairs = zip(sample.targets, predictions, strict=True)
    records = [_record(sample, target, p, segmenter.mask_threshold, masks) for target, p in pairs]
    times = Counter(target.id for target in sample.targets)
    return [
        replace(record, id=f"{sample.id}/{target.id}") if target.id and times[target.id] == 1 else record
        for record, target in zip(records, sample.targets, strict=True)
    ]


def _numbered(records: list[Record]) -> list[Record]:
    """Ids from the image and the number of the query about it, where a record has none of its own; counted on where a
    dataset has an image twice. No id is given twice."""
    places: Counter[str] = Counter()
    taken = {record.id for record in records if record.id}
    seen = set[str]()
    numbered = []
    for record in records:
        number = places[record.image]
        places[record.image] += 1
        name = record.id
        while not name or name in seen:
            name = f"{record.image}/{number}"
            name, number = ("" if name in taken else name), number + 1
        seen.add(name)
        numbered.append(replace(record, id=name))
    return numbered


def _record(sample: Sample, target: Target, said: Prediction, threshold: float, masks: bool = False) -> Record:
    drawn = torch.from_numpy(np.stack([said.mask, said.drawn(threshold)]))
    ignore = None if target.ignore is None else torch.from_numpy(target.ignore).expand_as(drawn)
    counts = overlap(drawn, torch.from_numpy(target.mask).expand_as(drawn), ignore)
    inside = on_mask(target.mask, said.keypoints)
    return Record(
        id="",
        image=sample.id,
        query=target.query,
        kind=target.kind,
        present=target.present,
        found=said.found,
        presence=said.presence,
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
        familiar=said.familiar,
        unknown_words=said.unknown_words,
        boxes=box_iou(extent(said.mask), true_extent(extent(target.mask), target.box)) if target.present else None,
        masks=_runs(target, said) if masks else None,
    )


def _runs(target: Target, said: Prediction) -> dict[str, Any]:
    ignore = {} if target.ignore is None else {"ignore": encode_rle(target.ignore)}
    box = {} if target.box is None else {"box": list(target.box)}
    return {"prediction": encode_rle(said.mask), "target": encode_rle(target.mask), **ignore, **box}


def results(records: Sequence[Record], protocol: str) -> dict[str, Any]:
    """The report of a protocol of `PROTOCOLS`, or "world" for `summarise`. Raises ValueError on any other name."""
    return summarise(list(records)) if protocol == WORLD else find_protocol(protocol)([r.outcome for r in records])


def understood(records: Sequence[Record]) -> dict[str, Any]:
    """How much of the data the model says that it does not understand, and refuses: the share of unfamiliar images
    (None: the model cannot say) and that of queries with unknown words."""
    images = {record.image: record.familiar for record in records}
    return {
        "images": len(images),
        "unfamiliar": _share([float(not known) for known in images.values() if known is not None]),
        "queries_with_unknown_words": _share([float(bool(record.unknown_words)) for record in records]),
    }


def prediction_lines(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The records that kept their masks, as `seglens score` reads them."""
    return [
        {"id": r.id, "image": r.image, "kind": r.kind, "query": r.query, "no_target": not r.found, **r.masks}
        for r in records
        if r.masks is not None
    ]


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


def as_json(records: list[Record]) -> list[dict[str, Any]]:
    """The records as plain values, one dict per query, without masks."""
    return [{name: value for name, value in asdict(r).items() if name != "masks"} for r in records]
