"""A segmenter against a dataset: what a user gets, counted at the image's own size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from seglens.core.distributed import Ranks
from seglens.core.types import Sample
from seglens.data import Dataset
from seglens.data.faults import RecordFault
from seglens.data.head_prompt import prompt_kind
from seglens.evaluation.records import Record, numbered, read_record, record_of
from seglens.evaluation.shared_answers import AnswerJournal, ask_all
from seglens.inference.image_batches import batch_size, in_batches, predictions_of_batch, useful_size
from seglens.inference.prediction import Prediction
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
    """Ask every query of every sample, of as many samples in one pass as `batch_size` finds useful. `masks` stores the
    masks, as run lengths."""
    records = []
    for batch in in_batches(data, batch_size(segmenter), _pixels):
        for some in _ask(segmenter, batch, masks):
            records += some
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
    size: int | None = None,
) -> Run | None:
    """`run` over this process's share of `data`. The first rank returns the records of all ranks, the same as those of
    one process; the others return None. Samples in `journal` are not asked again; `on_records` is called with the
    records of each sample. `size` samples share a pass, by default as many as `batch_size` finds useful.

    A sample that cannot be used does not end the run. Raises its error when there is no other."""
    block, size = size or useful_size(segmenter), size or batch_size(segmenter)  # processes differ in free memory

    def ask(samples: Sequence[Sample]) -> list[list[dict[str, Any]]]:
        batches = in_batches(samples, size, _pixels)
        return [list(map(asdict, some)) for batch in batches for some in _ask(segmenter, batch, masks)]

    answers = ask_all(
        data, ask, ranks, tick, journal, lambda rows: on_records(numbered(list(map(read_record, rows)))), block
    )
    if answers is None:
        return None
    records = numbered([read_record(one) for rows in answers.rows for one in rows])
    return Run(records, answers.faults, answers.damaged)


def _pixels(sample: Sample) -> int:
    return sample.image.shape[0] * sample.image.shape[1]


def _ask(segmenter: Segmenter, samples: Sequence[Sample], masks: bool) -> Iterator[list[Record]]:
    samples = [sample.drawn() for sample in samples]
    images, targets = [sample.image for sample in samples], [sample.targets for sample in samples]
    queries, kinds = [[t.query for t in some] for some in targets], [list(map(prompt_kind, some)) for some in targets]
    for sample, predictions in zip(samples, predictions_of_batch(segmenter, images, queries, kinds), strict=True):
        yield _records(segmenter, sample, predictions, masks)


def _records(segmenter: Segmenter, sample: Sample, predictions: Iterable[Prediction], masks: bool) -> list[Record]:
    pairs = zip(sample.targets, predictions, strict=True)
    records = [record_of(sample, target, p, segmenter.mask_threshold, masks) for target, p in pairs]
    times = Counter(target.id for target in sample.targets)
    return [
        replace(record, id=f"{sample.id}/{target.id}") if target.id and times[target.id] == 1 else record
        for record, target in zip(records, sample.targets, strict=True)
    ]
