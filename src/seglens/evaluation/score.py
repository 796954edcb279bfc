"""Predictions on disk, anybody's: one JSON line per sample, scored by a paper's protocol without any model.

A line is ``{"id": ..., "prediction": RLE, "target": RLE}``, with COCO run lengths, and may hold ``"ignore"`` (RLE of
pixels that do not count), ``"no_target"`` (true: the method reports that nothing in the image fits; by default an empty
prediction means this), ``"image"`` (the bootstrap draws all samples of an image together), ``"kind"`` and ``"box"`` (of
the target's annotation, as x, y, width and height). Files of any length are read line by line, and pixels are counted
on the run lengths, without decoding the masks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from seglens.core.metrics import Extent, bootstrap, box_iou, true_extent
from seglens.core.text import shortened
from seglens.data.faults import DataError, RecordFault
from seglens.data.masks import read_rle
from seglens.data.records import Bad
from seglens.evaluation.protocols import QueryOutcome, columns, find_protocol, interval, mean_iou

FAULTS_SHOWN = 5
LONGEST_LINE = 2**26  # bytes: no mask has that many runs, and JSON lines have line ends


@dataclass(frozen=True)
class Scored:
    """A file of predictions in counts. `truth` names each sample's target and ignored pixels by a hash."""

    path: Path
    outcomes: list[QueryOutcome]
    truth: list[bytes]
    faults: list[RecordFault]


def read_predictions(path: str | Path, bad: Bad = "refuse") -> Scored:
    """Count every line of a file of predictions.

    Raises DataError with the first bad lines by number and id, and how many there are; with ``bad="skip"`` they are
    left out and listed in `faults`. A file without a usable line is always refused; OSError is raised for one that
    cannot be read."""
    if bad not in ("refuse", "skip"):
        raise DataError(f"read_predictions got bad={bad!r}; choose refuse or skip")
    scored = Scored(Path(path), [], [], [])
    line_of: dict[str, int] = {}
    for number, line in _lines(scored.path):
        name = f"line {number}"
        try:
            row = _row(line)
            name = f"id {row['id']!r}"
            if row["id"] in line_of:
                raise ValueError(f"the id is taken by line {line_of[row['id']]}; every sample needs its own")
            outcome, truth = _count(row)
        except ValueError as error:
            scored.faults.append(RecordFault(f"{path}:{number}", name, str(error)))
        else:
            line_of[outcome.id] = number
            scored.outcomes.append(outcome)
            scored.truth.append(truth)
    if scored.faults and (bad == "refuse" or not scored.outcomes):
        raise DataError(_refusal(scored.path, scored.faults, bad))
    if not scored.outcomes:
        raise DataError(f"{path} is empty; it needs one JSON line per sample, as `seglens eval --predictions` writes")
    return scored


def score(predictions: Scored, protocol: str = "lisa") -> dict[str, Any]:
    """The protocol's report, and the lines left out of it. Raises ValueError on an unknown protocol."""
    report = {"file": str(predictions.path), "protocol": protocol, **find_protocol(protocol)(predictions.outcomes)}
    if predictions.faults:
        return {**report, "skipped": len(predictions.faults), "faults": [str(fault) for fault in predictions.faults]}
    return {**report, "skipped": 0}


def compare(first: Scored, second: Scored, protocol: str = "lisa") -> dict[str, Any]:
    """First minus second in gIoU and cIoU, with 95 % intervals from a paired bootstrap over images.

    Raises DataError unless both files hold the same ids with the same targets and ignored pixels."""
    rule = find_protocol(protocol)
    order = _matched(first, second)
    table = columns(first.outcomes)
    mine, other = rule.totals(table), rule.totals(columns([second.outcomes[k] for k in order]))
    statistics = {"gIoU": mean_iou, "cIoU": rule.cumulative} if rule.mean else {"cIoU": rule.cumulative}
    report = {"file": str(first.path), "against": str(second.path), "protocol": protocol, "queries": len(order)}
    report["images"] = int(table.images.max()) + 1
    for name, statistic in statistics.items():

        def difference(totals: Float64[torch.Tensor, "r 8"], statistic: Any = statistic) -> Float64[torch.Tensor, " r"]:
            return statistic(totals[:, :4]) - statistic(totals[:, 4:])

        both = torch.cat([mine, other], 1)
        ends = interval(bootstrap(both, difference, table.images))
        values = [float(statistic(part.sum(0)[None])) for part in (mine, other)]
        report[name] = {
            "file": values[0],
            "against": values[1],
            "difference": values[0] - values[1],
            "difference_95": ends,
            "verdict": "equal" if torch.equal(mine, other) else _verdict(ends),
        }
    return report


def _verdict(ends: list[float] | None) -> str:
    if ends is None or ends[0] <= 0 <= ends[1]:
        return "undecided"
    return "higher" if ends[0] > 0 else "lower"


def _matched(first: Scored, second: Scored) -> list[int]:
    """For each outcome of `first`, the index of the outcome with the same id in `second`."""
    place = {outcome.id: k for k, outcome in enumerate(second.outcomes)}
    mine = {outcome.id for outcome in first.outcomes}
    for path, extra in ((first.path, mine - place.keys()), (second.path, place.keys() - mine)):
        if extra:
            raise DataError(
                f"{len(extra)} ids are only in {path}: {_listed(sorted(extra))}; "
                "to be paired, both need the same samples"
            )
    order = [place[outcome.id] for outcome in first.outcomes]
    changed = [o.id for o, truth, k in zip(first.outcomes, first.truth, order, strict=True) if second.truth[k] != truth]
    if changed:
        raise DataError(
            f"{len(changed)} ids have another target or other ignored pixels in {second.path} than in {first.path}: "
            f"{_listed(changed)}; a paired comparison needs the same ground truth"
        )
    return order


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank, one in memory at a time."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                raise DataError(
                    f"{path}:{number}: the line is longer than {LONGEST_LINE} bytes; write one sample per line"
                )
            if line.strip():
                yield number, line


def _row(line: bytes) -> dict[str, Any]:
    """The line as a dictionary whose id is a string. Raises ValueError that gives the fault."""
    # Not pydantic: its errors do not tell what was wrong with bytes, and a file has a line for each sample.
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets in brackets
        raise ValueError(f"not usable JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"holds {type(row).__name__}; a line needs an object with id, prediction and target")
    if not isinstance(row.get("id"), str | int) or isinstance(row["id"], bool):
        raise ValueError(f"got {str(row.get('id'))[:40]!r} as id; it needs a string or a whole number")
    return {**row, "id": str(row["id"])}


def _count(row: Mapping[str, Any]) -> tuple[QueryOutcome, bytes]:
    target, size = _runs(row, "target", None)
    prediction, _ = _runs(row, "prediction", size)
    ignore = _runs(row, "ignore", size)[0] if row.get("ignore") is not None else np.array([size[0] * size[1]])
    refusal = row.get("no_target")
    if refusal is not None and not isinstance(refusal, bool):
        raise ValueError(f"got {str(refusal)[:40]!r} as no_target; it needs true or false, or to be left out")
    intersection, union, predicted, actual = run_counts(prediction, target, ignore)
    found = predicted > 0 if refusal is None else not refusal
    image, kind = (_text(row, key, default) for key, default in (("image", row["id"]), ("kind", "query")))
    true = true_extent(run_extent(target, size[0]), _box(row))
    boxes = box_iou(run_extent(prediction, size[0]), true) if actual else None
    outcome = QueryOutcome(row["id"], image, kind, found, intersection, union, predicted, actual, boxes)
    return outcome, _hash(size, target, ignore)


def _runs(row: Mapping[str, Any], key: str, size: tuple[int, int] | None) -> tuple[Int64[np.ndarray, " r"], tuple]:
    rle = row.get(key)
    if not isinstance(rle, dict):
        raise ValueError(f"{key} is {'missing' if rle is None else type(rle).__name__}; it needs COCO's run lengths")
    try:
        of, runs = read_rle(rle, size)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    return runs, of


def _box(row: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    box = row.get("box")
    if box is None:
        return None
    if not isinstance(box, list) or len(box) != 4 or not all(type(one) in (int, float) for one in box):
        raise ValueError(f"got {str(box)[:40]!r} as box; it needs x, y, width and height, or to be left out")
    x, y, width, height = map(float, box)
    return x, y, width, height


def run_extent(runs: Int64[np.ndarray, " r"], height: int) -> Extent | None:
    """`metrics.extent` of a mask in run lengths, which go down the columns."""
    ends = runs.cumsum()[1::2]
    starts = ends - runs[1::2]
    first, last = starts[ends > starts], ends[ends > starts] - 1  # pixels of the runs of foreground
    if not len(first):
        return None
    left, right = first // height, last // height
    top, bottom = np.where(left == right, first % height, 0), np.where(left == right, last % height, height - 1)
    return float(left.min()), float(top.min()), float(right.max()), float(bottom.max())


def _text(row: Mapping[str, Any], key: str, default: str) -> str:
    value = row.get(key)
    if value is None:
        return default
    if not isinstance(value, str | int):
        raise ValueError(f"got {str(value)[:40]!r} as {key}; it needs a string or a number")
    return str(value)


def run_counts(
    prediction: Int64[np.ndarray, " p"], target: Int64[np.ndarray, " t"], ignore: Int64[np.ndarray, " i"]
) -> tuple[int, int, int, int]:
    """Intersection, union, predicted and actual pixels outside ``ignore``, from three masks' checked run lengths."""
    ends = [runs.cumsum() for runs in (prediction, target, ignore)]
    edges = np.sort(np.concatenate(ends))
    starts = np.append(0, edges[:-1])
    # Between two edges nothing changes: a mask is foreground where an odd number of its runs has ended.
    predicted, true, void = (np.searchsorted(end, starts, "right") % 2 == 1 for end in ends)
    length = (edges - starts) * ~void
    return tuple(int(length[where].sum()) for where in (predicted & true, predicted | true, predicted, true))  # type: ignore[return-value]


def _hash(size: tuple[int, int], target: Int64[np.ndarray, " t"], ignore: Int64[np.ndarray, " i"]) -> bytes:
    """The same for all encodings of one mask: empty runs join their neighbours."""
    digest = blake2b(repr(size).encode(), digest_size=16)
    for runs in (target, ignore):
        edges, times = np.unique(runs.cumsum()[:-1], return_counts=True)
        digest.update(b"|" + edges[(times % 2 == 1) & (edges < runs.sum())].tobytes())
    return digest.digest()


def _refusal(path: Path, faults: Sequence[RecordFault], bad: Bad) -> str:
    """One line of error: the first faults, how many there are, and what to do."""
    advice = "no line is usable" if bad == "skip" else "mend them, or leave them out with --bad skip"
    bad_lines = f"{len(faults)} bad {'line' if len(faults) == 1 else 'lines'}"
    return f"{path} has {bad_lines}: {shortened(faults, FAULTS_SHOWN)}; {advice}"


def _listed(ids: Sequence[str]) -> str:
    return shortened([*map(repr, ids)], FAULTS_SHOWN, ", ")
