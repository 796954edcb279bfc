"""A segmenter against a dataset: what a user gets, counted at the image's own size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

from seglens.core.distributed import Ranks
from seglens.core.types import Sample
from seglens.data import Dataset
from seglens.data.faults import RecordFault
from seglens.data.head_prompt import prompt_kind
from seglens.evaluation.records import Record, numbered, read_record, record_of
from seglens.evaluation.shared_answers import AnswerJournal, ask_all
from seglens.inference.segmenter import Segmenter


@dataclass(frozen=True)
class Run:
    """The records of a dataset in its order, the faults that it leaves out, and other samples that could not be
    used."""

    records: list[Record]
    faults: list[RecordFault]
    damaged: list[RecordFault]


def run(
    segmenter: Segmenter, data: Iterable[Sample], tick: Callable[[], None] = lambda: None, masks: bool = False
) -> list[Record]:
    """Ask every query of every sample; all queries about an image in one pass. `masks` stores them, as run lengths."""
    records = []
    for sample in data:
        records += _ask(segmenter, sample, masks)
        tick()
    return numbered(records)


def run_shared(
    segmenter: Segmenter,
    data: Dataset,
    ranks: Ranks,
    tick: Callable[[], None] = lambda: None,
    masks: bool = False,
    journal: AnswerJournal | None = None,
    on_records: Callable[[list[Record]], None] = lambda records: None,
) -> Run | None:
    """`run` over this process's share of `data`. The first rank returns the records of all ranks, the same as those of
    one process; the others return None. Samples in `journal` are not asked again; `on_records` is called with the
    records of each sample.

    A sample that cannot be used does not end the run. Raises its error when there is no other."""
    answers = ask_all(
        data,
        lambda sample: [asdict(one) for one in _ask(segmenter, sample, masks)],
        ranks,
        tick,
        journal,
        lambda rows: on_records(numbered(list(map(read_record, rows)))),
    )
    if answers is None:
        return None
    records = numbered([read_record(one) for rows in answers.rows for one in rows])
    return Run(records, answers.faults, answers.damaged)


def _ask(segmenter: Segmenter, sample: Sample, masks: bool) -> list[Record]:
    sample = sample.drawn()
    opened = segmenter.open(sample.image)
    predictions = opened.predictions_as([t.query for t in sample.targets], list(map(prompt_kind, sample.targets)))
    pairs = zip(sample.targets, predictions, strict=True)
    records = [record_of(sample, target, p, segmenter.mask_threshold, masks) for target, p in pairs]
    times = Counter(target.id for target in sample.targets)
    return [
        replace(record, id=f"{sample.id}/{target.id}") if target.id and times[target.id] == 1 else record
        for record, target in zip(records, sample.targets, strict=True)
    ]
