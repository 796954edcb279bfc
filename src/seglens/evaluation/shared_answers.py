"""A question to every sample of a dataset: shared by processes, each answer stored on disk, not ended by a bad
sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seglens.core.distributed import Ranks
from seglens.core.journal import Journal, JournalError
from seglens.core.types import Sample
from seglens.data import Dataset
from seglens.data.dataset import faults_of, usable
from seglens.data.faults import DataError, RecordFault
from seglens.inference.image_answers import FAILURES

PART = ".part"  # after the name of a file that is not yet complete


@dataclass(frozen=True)
class SampleAnswers:
    """The answers of all samples, in their order: rows that JSON can hold. `faults` are the records that the dataset
    leaves out, and `damaged` further samples that could not be used."""

    rows: list[Any]
    faults: list[RecordFault]
    damaged: list[RecordFault]


@dataclass(frozen=True)
class SampleRow:
    """The answer of one sample; no `row` where the dataset leaves it out."""

    row: Any
    faults: list[RecordFault] = field(default_factory=list)


class AnswerJournal:
    """The answers so far, in a journal beside `path` for each process; a run with the same `settings` continues there.
    Without a path nothing is stored.

    Raises JournalError on the journal of other settings, unless `anew` starts from nothing."""

    def __init__(self, path: Path | None, settings: Mapping[str, Any], ranks: Ranks, anew: bool = False):
        self.path, self.rows = path, dict[int, SampleRow]()
        if path is None:
            self.journal = None
            return
        header = {"seglens evaluation": dict(settings)}
        if anew:
            self._remove(ranks.rank if ranks.rank else None)
        for part in self.parts():
            self._read(Journal(header, part))
        self.journal = Journal(header, path.with_name(f"{path.name}{PART}{ranks.rank or ''}"))

    def parts(self) -> list[Path]:
        """The journals of all processes, also of an earlier run."""
        return [] if self.path is None else sorted(self.path.parent.glob(f"{self.path.name}{PART}*"))

    def add(self, index: int, row: SampleRow) -> None:
        """Write a row, which is on the disk when this returns."""
        if self.journal is not None:
            self.journal.add({"index": index, "row": row.row, "faults": [one.to_json() for one in row.faults]})

    def close(self) -> None:
        """Remove the journals: all is done, and written elsewhere."""
        self._remove(None)

    def _remove(self, rank: int | None) -> None:
        for part in self.parts():
            if rank is None or part.name.endswith(f"{PART}{rank}"):
                part.unlink(missing_ok=True)

    def _read(self, journal: Journal) -> None:
        try:
            for _, entry in journal.new_rows():
                faults = [RecordFault.from_json(fault) for fault in entry["faults"]]
                self.rows[entry["index"]] = SampleRow(entry["row"], faults)
        except JournalError as error:
            raise JournalError(f"{error}; give another name, or start anew with --overwrite") from None


def ask_all(
    data: Dataset,
    ask: Callable[[Sequence[Sample]], list[Any]],
    ranks: Ranks,
    tick: Callable[[], None] = lambda: None,
    journal: AnswerJournal | None = None,
    on_row: Callable[[Any], None] = lambda row: None,
    size: int = 1,
) -> SampleAnswers | None:
    """The rows of `ask`, for this process's share of `data` and then, on the first rank, for all; None on the others.
    `on_row` is called with each row.

    `ask` is given samples 0 to `size` - 1, the next `size`, ...: always the same ones together, so that rounding
    depends neither on the number of processes nor on where an earlier run stopped. All processes need the same `size`:
    they divide the samples by it. Where it raises, it is given each of them alone. Raises the error of the first sample
    when none could be used."""
    mine, damaged, first = dict[int, SampleRow](), list[RecordFault](), None
    known = journal.rows if journal else {}
    for number in ranks.share(-(-len(data) // size)):
        block = range(number * size, min((number + 1) * size, len(data)))
        done = all(index in known for index in block)
        for index, row in ((index, known[index]) for index in block) if done else _asked(data, block, ask):
            row = known.get(index, row)
            if isinstance(row, SampleRow):
                mine[index] = row
                if journal and index not in known:
                    journal.add(index, row)
                if row.row is not None:
                    on_row(row.row)
            else:
                first = first or row
                damaged += _faults(index, row)
            tick()
    parts = ranks.gather((mine, list(faults_of(data)), damaged))
    return None if parts is None else _joined(parts, first)


def _asked(
    data: Dataset, block: Sequence[int], ask: Callable[[Sequence[Sample]], list[Any]]
) -> Iterator[tuple[int, SampleRow | Exception]]:
    """Each sample's row, or the reason why there is none."""
    read = {index: _read(data, index) for index in block}
    samples = {index: one[0] for index, one in read.items() if isinstance(one, tuple) and one[0] is not None}
    rows = dict(zip(samples, _rows(list(samples.values()), ask), strict=True))
    for index, one in read.items():
        row = rows.get(index)
        if isinstance(one, Exception):
            yield index, one
        else:
            yield index, row if isinstance(row, Exception) else SampleRow(row, one[1])


def _read(data: Dataset, index: int) -> tuple[Sample | None, list[RecordFault]] | Exception:
    try:
        sample, faults = usable(data, index)
    except FAILURES as error:
        return error
    return sample, list(faults)


def _rows(samples: Sequence[Sample], ask: Callable[[Sequence[Sample]], list[Any]]) -> list[Any]:
    """What `ask` gives for each, or the error that it raises for it."""
    try:
        return ask(samples) if samples else []
    except FAILURES as error:
        if len(samples) == 1:
            return [error]
    return [row for sample in samples for row in _rows([sample], ask)]


def _joined(parts: list[Any], first: Exception | None) -> SampleAnswers:
    rows = {index: row for some, _, _ in parts for index, row in some.items()}
    damaged = [fault for _, _, some in parts for fault in some]
    if damaged and not any(row.row is not None for row in rows.values()):
        raise first or DataError(f"no sample can be used; the first: {damaged[0]}", damaged)
    ordered = [rows[index] for index in sorted(rows)]
    faults = [fault for _, some, _ in parts for fault in some]  # every process has those of the index
    faults += [fault for row in ordered for fault in row.faults]
    return SampleAnswers([row.row for row in ordered if row.row is not None], list(dict.fromkeys(faults)), damaged)


def _faults(index: int, error: Exception) -> list[RecordFault]:
    if isinstance(error, DataError) and error.faults:
        return list(error.faults)
    return [RecordFault("data", f"image {index}", str(error) or "it does not fit into memory", "image")]
