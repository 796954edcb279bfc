"""One annotated image: its queries with their masks, as records that decode nothing, and the sample made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from seglens.core.types import Sample, Target
from seglens.data.faults import RecordFault, messages_of
from seglens.data.images import orientation
from seglens.data.reduced_size import factor_for, load_reduced, reduced_target

Choose = Callable[[int], Sequence[int]]  # from the number of queries to those that are wanted


@dataclass(frozen=True)
class DecodedMask:
    """A decoded mask, and the pixels that count neither for nor against a prediction. `absent` declares that the image
    holds no such target; without it, a mask without pixels is a bad record."""

    mask: Bool[np.ndarray, "h w"]
    ignore: Bool[np.ndarray, "h w"] | None = None
    absent: bool = False


@runtime_checkable
class MaskSource(Protocol):
    """A mask as its file holds it (polygons, run lengths, a label map): decoded only when needed."""

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        """The mask at (height, width) of its image. Raises ValueError with what is wrong with it."""


@dataclass(frozen=True)
class QueryRecord:
    """One query of an annotation file. `record` is its place in the file; `kind` is that of its text: phrase, class,
    part, sentence. `id` names its results, if that is not `record`. `size` is the (height, width) that the record
    states; records of one image may differ. `spoken`: only `answer` is asked for. `box`: as in `Target`."""

    text: str
    mask: MaskSource
    record: str
    kind: str = "phrase"
    answer: str | None = None
    id: str | None = None
    size: tuple[int, int] | None = None
    spoken: bool = False
    box: tuple[float, float, float, float] | None = None


Queries = tuple[QueryRecord, ...]
Holds = frozenset[str] | None | Callable[[Queries], "frozenset[str] | None"]
MoreQueries = Callable[["ImageRecord", Queries], Queries]


@dataclass(frozen=True)
class ImageRecord:
    """An image with its queries, nothing decoded. `queries` may be a function where only the label map holds them (it
    may raise ValueError). `size` is (height, width) if the annotation states it.

    For queries about what the image does not show: `holds` are classes that it may show without a query for them (bad
    records, crowds), or a function of the queries that gives them; None: any class. `absent`: those that it is known
    not to show, where the others were not searched for. `more` adds such queries to those of the annotation."""

    id: str
    image: Path
    file: str
    queries: Queries | Callable[[], Queries]
    size: tuple[int, int] | None = None
    holds: Holds = frozenset()
    absent: frozenset[str] | None = None
    more: MoreQueries | None = None

    def all_queries(self) -> Queries:
        """Those of the annotation and further ones. Raises ValueError where `queries` does."""
        queries = self.queries() if callable(self.queries) else self.queries
        return queries if self.more is None else (*queries, *self.more(self, queries))


def decode(
    entry: ImageRecord, choose: Choose | None = None, least: int | None = None
) -> tuple[Sample | None, list[RecordFault]]:
    """The sample without its bad targets (None when nothing usable remains), and a fault for each bad thing.

    Of all queries, or of those that `choose` picks from their number. A large picture is reduced, its masks with it,
    as far as both sides keep `least` pixels (None: not at all)."""
    try:
        image, size = load_reduced(entry.image, least)
    except ValueError as error:
        return None, [RecordFault(entry.file, entry.id, str(error), "image"), *_mask_faults(entry)]
    try:
        queries = entry.all_queries()
    except ValueError as error:
        return None, [RecordFault(entry.file, entry.id, str(error))]
    chosen = queries if choose is None else [queries[number] for number in choose(len(queries))]
    if entry.size is not None and entry.size != size:
        mismatch = RecordFault(entry.file, entry.id, _mismatch(entry.size, size, entry.image), "image size")
        return None, [mismatch, *_wrong_at_both(entry, chosen, entry.size, size)]
    results = [_target(entry, query, size) for query in chosen]
    factor = factor_for(size, least)
    targets = tuple(reduced_target(one, factor) for one in results if isinstance(one, Target))
    # A mistake of a whole label map turns up once per class.
    faults = list(dict.fromkeys(fault for one in results if not isinstance(one, Target) for fault in one))
    return Sample(entry.id, image, targets) if targets else None, faults


def _mask_faults(entry: ImageRecord) -> Iterator[RecordFault]:
    """What is wrong with the masks of an image that cannot be read, where their records state its size."""
    for query in () if callable(entry.queries) else entry.queries:
        size = query.size or entry.size
        result = _target(entry, query, size) if size is not None else None
        if isinstance(result, list):
            yield from result


def _wrong_at_both(
    entry: ImageRecord, queries: Iterable[QueryRecord], declared: tuple[int, int], size: tuple[int, int]
) -> list[RecordFault]:
    """What is wrong with masks whichever of two sizes is theirs."""
    faults = list[RecordFault]()
    for query in queries:
        one, other = _target(entry, query, declared), _target(entry, query, size)
        if not isinstance(one, Target) and not isinstance(other, Target):
            faults += one if len(one) <= len(other) else other
    return list(dict.fromkeys(faults))


def _target(entry: ImageRecord, query: QueryRecord, size: tuple[int, int]) -> Target | list[RecordFault]:
    if query.size is not None and query.size != size:
        return [RecordFault(entry.file, query.record, _mismatch(query.size, size, entry.image), "image size")]
    try:
        drawn = query.mask.draw(size)
    except ValueError as error:
        return [RecordFault(entry.file, query.record, message, "mask") for message in messages_of(error)]
    if drawn.mask.shape != size:
        message = f"the mask has {_by(drawn.mask.shape)} pixels (height x width), and its image {_by(size)}"
        return [RecordFault(entry.file, query.record, message, "mask")]
    counted = drawn.mask if drawn.ignore is None else drawn.mask & ~drawn.ignore
    if drawn.absent == bool(counted.any()):
        return [RecordFault(entry.file, query.record, _wrongly_empty(query, drawn), "empty mask")]
    name = query.id or query.record
    return Target(query.text, drawn.mask, query.kind, drawn.ignore, query.answer, name, query.spoken, box=query.box)


def _wrongly_empty(query: QueryRecord, drawn: DecodedMask) -> str:
    if drawn.absent:
        return f"the target {query.text!r} is declared absent, and its mask has pixels; drop one of the two"
    if drawn.mask.any():
        return f"every pixel of the mask of {query.text!r} is ignored; nothing is left to compare with"
    return (
        f"the mask of {query.text!r} is empty (no pixel, or thinner than one); draw it, drop it, or declare it absent"
    )


def _mismatch(declared: tuple[int, int], size: tuple[int, int], image: Path) -> str:
    message = f"the annotation gives {_by(declared)} (height x width), and {image} has {_by(size)}"
    if declared == size[::-1] and orientation(image) > 1:
        message += (
            "; the file is turned upright by its EXIF orientation, and the annotation was made on the pixels as they "
            "are stored: save the image without EXIF, or annotate it upright"
        )
    return message


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
