"""Open-vocabulary segmentation: every class of a list is asked for, and each pixel goes to the class with the highest
logit (the protocol of SELF1E, arXiv 2603.19026)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from seglens.core.distributed import Ranks
from seglens.core.mask_logits import Drawing
from seglens.core.metrics import bootstrap, class_counts, miou
from seglens.core.types import Sample
from seglens.data import Dataset
from seglens.data.faults import DataError, RecordFault
from seglens.data.head_prompt import AS_IT_STANDS
from seglens.data.query_templates import Prompted, apply
from seglens.data.rng import words
from seglens.evaluation.protocols import interval
from seglens.evaluation.shared_answers import AnswerJournal, ask_all
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter

CLASSES_AT_ONCE = 16  # masks of the image's size in memory together, whatever the length of the class list
UNLABELLED = -1  # pixels of no known class: not counted


@dataclass(frozen=True, eq=False)
class ClassTable:
    """Intersection, union and ground-truth pixels of k classes in each of n images."""

    classes: tuple[str, ...]
    counts: Int64[torch.Tensor, "n k 3"]


@dataclass(frozen=True)
class ClassRun:
    """The counts of a dataset, the faults that it leaves out, and the other samples that could not be used."""

    table: ClassTable
    faults: list[RecordFault]
    damaged: list[RecordFault]


def run_open_vocabulary(
    segmenter: Segmenter,
    data: Dataset,
    classes: Sequence[str],
    ranks: Ranks,
    tick: Callable[[], None] = lambda: None,
    journal: AnswerJournal | None = None,
) -> ClassRun | None:
    """Ask for every class in every image of this process's share of `data`, whose targets are the classes that an image
    holds. The first rank returns the counts of all, as in `evaluate.run_shared`.

    Names are compared without case and final dots, and asked for in the templates of the data (`prompt=`), if any.
    Raises ValueError on a class list that is empty or names a class twice, DataError on a target that is not in it or
    on two classes that claim a pixel."""
    numbers = _numbers(classes)
    kind = AS_IT_STANDS if isinstance(data, Prompted) else "class"
    data, questions = _bare(data, classes)

    def ask(samples: Sequence[Sample]) -> list[list[list[int]]]:
        return [_count(segmenter, sample, questions, numbers, kind).tolist() for sample in samples]

    answers = ask_all(data, ask, ranks, tick, journal)
    if answers is None:
        return None
    counts = [torch.tensor(row, dtype=torch.int64) for row in answers.rows]
    return ClassRun(ClassTable(tuple(classes), _stack(counts, len(numbers))), answers.faults, answers.damaged)


def class_report(table: ClassTable) -> dict[str, Any]:
    """mIoU over the classes that occur, its 95 % interval over images, and the IoU of each of these classes."""
    images, classes = table.counts.shape[:2]
    totals = table.counts.sum(0)
    occur = (totals[:, 2] > 0).tolist()
    each = (totals[:, 0] / totals[:, 1].double()).tolist()
    rows = table.counts.reshape(images, 3 * classes).double()
    ends = bootstrap(rows, lambda drawn: miou(drawn.reshape(-1, classes, 3)))
    return {
        "images": images,
        "classes": classes,
        "classes_that_occur": sum(occur),
        "mIoU": float(miou(totals)) if any(occur) else None,
        "mIoU_95": interval(ends),
        "by_class": {name: value for name, value, occurs in zip(table.classes, each, occur, strict=True) if occurs},
    }


def image_lines(table: ClassTable) -> list[dict[str, Any]]:
    """Of every image, in order: pixels of intersection, union and ground truth of the classes that occur in it."""
    return [
        {name: counts for name, counts in zip(table.classes, image, strict=True) if any(counts)}
        for image in table.counts.tolist()
    ]


def _bare(data: Dataset, classes: Sequence[str]) -> tuple[Dataset, tuple[str, ...]]:
    """The data with the names of its classes for queries, and how each class is asked for."""
    if not isinstance(data, Prompted):
        return data, tuple(classes)
    keys = (words(1, "prompt", data.seed, name)[0] for name in classes)
    return data.inner, tuple(apply(data.preset, name, "class", key) for name, key in zip(classes, keys, strict=True))


def _numbers(classes: Sequence[str]) -> dict[str, int]:
    numbers = {_plain(name): number for number, name in enumerate(classes)}
    if not classes or len(numbers) < len(classes) or "" in numbers:
        raise ValueError(
            f"got a list of {len(classes)} classes, {len(set(numbers) - {''})} of them different names; "
            "mIoU needs one name per class"
        )
    return numbers


def _plain(name: str) -> str:
    return name.strip().rstrip(".").strip().lower()


def _count(
    segmenter: Segmenter, sample: Sample, questions: tuple[str, ...], numbers: dict[str, int], kind: str
) -> Int64[torch.Tensor, "k 3"]:
    actual = _label_map(sample, numbers)
    predicted = strongest_class(segmenter.open(sample.image), questions, kind)
    return class_counts(predicted.reshape(-1), torch.from_numpy(actual).reshape(-1), len(questions))


def strongest_class(opened: OpenedImage, classes: Sequence[str], kind: str = "class") -> Int64[torch.Tensor, "h w"]:
    """The number of the class with the highest mask logit at every pixel of the image; the first of equals. `kind` is
    how the head is asked for them, as in `OpenedImage.predictions_as`.

    Presence is not used: a class may win although the method would refuse it."""
    size = opened.image.shape[:2]
    label, best = torch.zeros(size, dtype=torch.int64), torch.full(size, -torch.inf)
    for start in range(0, len(classes), CLASSES_AT_ONCE):
        some = classes[start : start + CLASSES_AT_ONCE]
        predictions = opened.predictions_as(some, [kind] * len(some))
        canvas = torch.from_numpy(np.stack([one.canvas_logits for one in predictions if one.canvas_logits is not None]))
        for rows, logits in Drawing(opened.seen.frame, canvas).bands():
            high, which = logits.max(0)
            better = high > best[rows]
            label[rows] = torch.where(better, which + start, label[rows])
            best[rows] = torch.where(better, high, best[rows])
    return label


def _label_map(sample: Sample, numbers: dict[str, int]) -> Int64[np.ndarray, "h w"]:
    label = np.full(sample.image.shape[:2], UNLABELLED, np.int64)
    for target in sample.targets:
        number = numbers.get(_plain(target.query))
        if number is None:
            raise DataError(f"{sample.id}: {target.query!r} is not in the class list; give the list of this dataset")
        if not np.isin(label[target.mask], (UNLABELLED, number)).all():
            raise DataError(
                f"{sample.id}: {target.query!r} claims pixels of another class; mIoU needs one class per pixel"
            )
        label[target.mask] = number
    for target in sample.targets:
        if target.ignore is not None:
            label[target.ignore] = UNLABELLED
    return label


def _stack(rows: list[torch.Tensor], classes: int) -> Int64[torch.Tensor, "n k 3"]:
    return torch.stack(rows) if rows else torch.zeros(0, classes, 3, dtype=torch.int64)
