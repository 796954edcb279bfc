"""Annotated images on disk: an index that names every bad record and goes on, and samples decoded on demand.

A dataset family is one function that turns its files into `ImageRecord`s and `RecordFault`s; all the rest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from seglens.core.text import shortened
from seglens.core.types import Sample, Target
from seglens.data.images import load_image, orientation

FAULTS_SHOWN = 3
Bad = Literal["refuse", "skip"]


@dataclass(frozen=True)
class RecordFault:
    """One bad record: the annotation (or image) file, the record's id in it, and what is wrong. `kind` is what a report
    counts it under."""

    file: str
    record: str
    says: str
    kind: str = "annotation"

    def __str__(self) -> str:
        return f"{self.file}: {self.record}: {self.says}"


@dataclass(frozen=True)
class Note:
    """A record that is right by itself and still worth a look, such as an image without annotation."""

    file: str
    record: str
    says: str

    def __str__(self) -> str:
        return f"{self.file}: {self.record}: {self.says}"


class DataError(ValueError):
    """Data that cannot be used: the file, the record and what is wrong with it. `faults` holds every bad record,
    `notes` what else was found where nothing can be used."""

    def __init__(self, says: str, faults: Sequence[RecordFault] = (), notes: Sequence[Note] = ()):
        super().__init__(says)
        self.faults, self.notes = tuple(faults), tuple(notes)


class SeveralError(ValueError):
    """Several mistakes of one mask, each of which is a fault of its own."""

    def __init__(self, says: Sequence[str]):
        super().__init__("; ".join(says))
        self.says = tuple(says)


def said_by(error: ValueError) -> tuple[str, ...]:
    """The mistakes that an error tells of."""
    return error.says if isinstance(error, SeveralError) else (str(error),)


@dataclass(frozen=True)
class DecodedMask:
    """A decoded mask, and the pixels that count neither for nor against a prediction. `absent` declares that the image
    holds no such target; without it, a mask without pixels is a bad record."""

    mask: Bool[np.ndarray, "h w"]
    ignore: Bool[np.ndarray, "h w"] | None = None
    absent: bool = False


@runtime_checkable
class MaskSource(Protocol):
    """A mask as its file holds it (polygons, run lengths, a label map): decoded only when asked for."""

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        """The mask at (height, width) of its image. Raises ValueError that says what is wrong with it."""


@dataclass(frozen=True)
class Ask:
    """One query of an annotation file. `record` is where it stands there; `kind` says what sort of words it is: phrase,
    class, part, sentence. `id` is what its results are found by, if that is not `record`. `size` is the (height, width)
    that the record names, where records of one image may differ. `spoken`: `answer` is all that is asked for. `box`: as
    in `Target`."""

    query: str
    mask: MaskSource
    record: str
    kind: str = "phrase"
    answer: str | None = None
    id: str | None = None
    size: tuple[int, int] | None = None
    spoken: bool = False
    box: tuple[float, float, float, float] | None = None


Holds = frozenset[str] | None | Callable[[tuple[Ask, ...]], "frozenset[str] | None"]


@dataclass(frozen=True)
class ImageRecord:
    """An image with its queries, nothing decoded. `asks` may be a function where only the label map knows them (it may
    raise ValueError). `size` is (height, width) if the annotation names it.

    For queries about what the image does not show: `holds` are classes that it may show although they are not asked for
    (bad records, crowds), as they are or of the queries; None: any. `absent`: those that it is known not to show, where
    the others were not looked for. `more` are such queries, of the image and those of its annotation."""

    id: str
    image: Path
    file: str
    asks: tuple[Ask, ...] | Callable[[], tuple[Ask, ...]]
    size: tuple[int, int] | None = None
    holds: Holds = frozenset()
    absent: frozenset[str] | None = None
    more: Callable[[ImageRecord, tuple[Ask, ...]], tuple[Ask, ...]] | None = None

    def questions(self) -> tuple[Ask, ...]:
        """All queries. Raises ValueError where `asks` does."""
        asks = self.asks() if callable(self.asks) else self.asks
        return asks if self.more is None else (*asks, *self.more(self, asks))


@dataclass(frozen=True)
class Remains:
    """Queries that cannot be asked because a record of theirs is bad: drawn by a check alone, for what else is wrong
    with them."""

    entry: ImageRecord


class Records:
    """A dataset of annotated images.

    Raises DataError, naming the first faults and their number, when the index holds any and `bad` is "refuse"; with
    "skip" they are left out, and `faults` names them. An image or mask that turns out bad when it is decoded raises
    DataError with "refuse"; with "skip" it is left out and added to `faults`, once, whichever way it was asked for. An
    image with nothing to ask about (a label map of ignored pixels only) is not bad: iterating leaves it out. `notes`
    are of the index; `remains` are what only a check draws (see `Remains`); `classes` are all the names of a closed
    vocabulary, whether an image has them or not; `vocabulary` those that may be asked for where an image does not show
    them (by default the same)."""

    def __init__(
        self,
        name: str,
        found: Iterable[ImageRecord | Remains | RecordFault | Note],
        *,
        trainable: bool,
        bad: Bad = "refuse",
        classes: tuple[str, ...] = (),
        vocabulary: tuple[str, ...] | Callable[[], tuple[str, ...]] | None = None,
    ):
        if bad not in ("refuse", "skip"):
            raise DataError(f"{name} got bad={bad!r}; choose refuse or skip")
        self.name, self.trainable, self.bad, self.classes = name, trainable, bad, classes
        self.faults, self.notes, entries = list[RecordFault](), list[Note](), dict[str, ImageRecord]()
        self.remains: list[ImageRecord] = []
        for one in found:
            if isinstance(one, RecordFault):
                self.faults.append(one)
            elif isinstance(one, Remains):
                self.remains.append(one.entry)
            elif isinstance(one, Note):
                self.notes.append(one)
            elif entries.setdefault(one.id, one) is not one:
                self.faults.append(RecordFault(one.file, one.id, "is the id of more than one image", "duplicate id"))
        self.entries: Sequence[ImageRecord] = list(entries.values())
        found_names = vocabulary() if callable(vocabulary) else vocabulary  # known when all records are read
        self.vocabulary = classes if found_names is None else found_names
        self._known = set(self.faults)
        if self.faults and bad == "refuse":
            raise DataError(refusal(name, self.faults), self.faults)
        if not entries:
            self._learn(self.beside())
            raise DataError(_nothing(name, self.faults, self.notes), self.faults, self.notes)

    def without(self, leave: Callable[[ImageRecord], bool]) -> Records:
        """The same data without some of its images. Raises DataError when none is left."""
        kept = copy(self)
        kept.entries = [entry for entry in self.entries if not leave(entry)]
        if not kept.entries:
            raise DataError(f"{self.name} has no image that is not to be left out; do without this dataset")
        return kept

    def asking(self, name: str, more: Callable[[ImageRecord, tuple[Ask, ...]], tuple[Ask, ...]]) -> Records:
        """The same data with further queries for each image, under a name of its own."""
        asking = copy(self)
        asking.name = name
        asking.entries = [replace(entry, more=more) for entry in self.entries]
        return asking

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        sample, faults = self.usable(index)
        if sample is None:
            says = f"{self.name} has nothing to ask about {self.entries[index].id}"
            if faults:
                says = f"{self.name} has nothing usable of {self.entries[index].id}: {_shown(faults)}"
            raise DataError(f"{says}; iterate to leave it out", faults)
        return sample

    def count(self, index: int) -> int:
        """How many queries an image has, by its annotation alone (0 for a bad label map with bad=skip)."""
        entry = self.entries[index]
        try:
            return len(entry.questions())
        except ValueError as error:
            if self.bad == "skip":
                return 0
            faults = [RecordFault(entry.file, entry.id, str(error))]
            raise DataError(refusal(self.name, faults), faults) from error

    def take(self, index: int, choose: Callable[[int], Sequence[int]]) -> Sample | None:
        """An image with some of its queries, whose masks alone are decoded: `choose` gets their count, and says which.

        None where nothing can be asked, or nothing usable remains with bad=skip. Raises DataError as indexing does."""
        return self.usable(index, choose)[0]

    def usable(
        self, index: int, choose: Callable[[int], Sequence[int]] | None = None
    ) -> tuple[Sample | None, list[RecordFault]]:
        """As `decode`, but raises DataError for what is wrong with bad=refuse, and adds it to `faults` with skip."""
        sample, faults = self.decode(index, choose)
        if faults and self.bad == "refuse":
            raise DataError(refusal(self.name, faults), faults)
        self._learn(faults)
        return sample, faults

    def _learn(self, faults: Iterable[RecordFault]) -> None:
        for fault in faults:
            if fault not in self._known:
                self._known.add(fault)
                self.faults.append(fault)

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self)):
            sample, _ = self.usable(index)
            if sample is not None:
                yield sample

    def decode(
        self, index: int, choose: Callable[[int], Sequence[int]] | None = None
    ) -> tuple[Sample | None, list[RecordFault]]:
        """The sample without its bad targets (None when nothing usable remains), and a Fault for each bad thing.

        Of all queries, or of those that `choose` picks when it is told how many there are."""
        return _decode(self.entries[index], choose)

    def check(self) -> Iterator[RecordFault]:
        """Every bad record: those of the index, then those that only decoding every image and mask can find."""
        known = set(self.faults)
        yield from list(self.faults)
        for index in range(len(self)):
            yield from (fault for fault in self.decode(index)[1] if fault not in known)
        yield from self.beside()

    def beside(self) -> Iterator[RecordFault]:
        """What else is wrong with the queries of bad records, which are never asked. What is wrong with their image is
        left to its other queries, or to the index, where they tell of it."""
        images = {entry.id for entry in self.entries}
        for entry in self.remains:
            told = entry.id in images or not entry.image.is_file()
            yield from (f for f in _decode(entry)[1] if not (told and f.kind in ("image", "image size")))


def _decode(
    entry: ImageRecord, choose: Callable[[int], Sequence[int]] | None = None
) -> tuple[Sample | None, list[RecordFault]]:
    try:
        image = load_image(entry.image)
    except ValueError as error:
        return None, [RecordFault(entry.file, entry.id, str(error), "image"), *_unseen(entry)]
    size = image.shape[:2]
    try:
        asks = entry.questions()
    except ValueError as error:
        return None, [RecordFault(entry.file, entry.id, str(error))]
    chosen = asks if choose is None else [asks[number] for number in choose(len(asks))]
    if entry.size is not None and entry.size != size:
        mismatch = RecordFault(entry.file, entry.id, _mismatch(entry.size, size, entry.image), "image size")
        return None, [mismatch, *_at_either(entry, chosen, entry.size, size)]
    made = [_target(entry, ask, size) for ask in chosen]
    targets = tuple(one for one in made if isinstance(one, Target))
    # What is wrong with a whole label map is found once per class.
    faults = list(dict.fromkeys(fault for one in made if not isinstance(one, Target) for fault in one))
    return Sample(entry.id, image, targets) if targets else None, faults


def _unseen(entry: ImageRecord) -> Iterator[RecordFault]:
    """What is wrong with the masks of an image that cannot be read, as far as their records tell its size."""
    for ask in () if callable(entry.asks) else entry.asks:
        size = ask.size or entry.size
        made = _target(entry, ask, size) if size is not None else None
        if isinstance(made, list):
            yield from made


def _at_either(
    entry: ImageRecord, asks: Iterable[Ask], said: tuple[int, int], size: tuple[int, int]
) -> list[RecordFault]:
    """What is wrong with masks whichever of two sizes is theirs."""
    found = list[RecordFault]()
    for ask in asks:
        one, other = _target(entry, ask, said), _target(entry, ask, size)
        if not isinstance(one, Target) and not isinstance(other, Target):
            found += one if len(one) <= len(other) else other
    return list(dict.fromkeys(found))


def _target(entry: ImageRecord, ask: Ask, size: tuple[int, int]) -> Target | list[RecordFault]:
    if ask.size is not None and ask.size != size:
        return [RecordFault(entry.file, ask.record, _mismatch(ask.size, size, entry.image), "image size")]
    try:
        drawn = ask.mask.draw(size)
    except ValueError as error:
        return [RecordFault(entry.file, ask.record, says, "mask") for says in said_by(error)]
    if drawn.mask.shape != size:
        says = f"the mask has {_by(drawn.mask.shape)} pixels (height x width), and its image {_by(size)}"
        return [RecordFault(entry.file, ask.record, says, "mask")]
    counted = drawn.mask if drawn.ignore is None else drawn.mask & ~drawn.ignore
    if drawn.absent == bool(counted.any()):
        return [RecordFault(entry.file, ask.record, _wrongly_empty(ask, drawn), "empty mask")]
    name = ask.id or ask.record
    return Target(ask.query, drawn.mask, ask.kind, drawn.ignore, ask.answer, name, ask.spoken, box=ask.box)


def _wrongly_empty(ask: Ask, drawn: DecodedMask) -> str:
    if drawn.absent:
        return f"the target {ask.query!r} is declared absent, and its mask has pixels; drop one of the two"
    if drawn.mask.any():
        return f"every pixel of the mask of {ask.query!r} is ignored; nothing is left to compare with"
    return f"the mask of {ask.query!r} is empty (no pixel, or thinner than one); draw it, drop it, or declare it absent"


def _mismatch(said: tuple[int, int], size: tuple[int, int], image: Path) -> str:
    says = f"the annotation says {_by(said)} (height x width), and {image} has {_by(size)}"
    if said == size[::-1] and orientation(image) > 1:
        says += (
            "; the file is turned upright by its EXIF orientation, and the annotation was made on the pixels as they "
            "are stored: save the image without EXIF, or annotate it upright"
        )
    return says


def refusal(name: str, faults: Sequence[RecordFault]) -> str:
    """One line for a person: the first faults, how many there are, and what to do."""
    return f"{name} has {len(faults)} bad records: {_shown(faults)}; mend them, or leave them out with bad=skip"


def _nothing(name: str, faults: Sequence[RecordFault], notes: Sequence[Note]) -> str:
    """Why nothing of a dataset can be used."""
    found = [f"{len(faults)} bad records: {_shown(faults)}"] if faults else []
    found += [f"{len(notes)} notes: {_shown(notes)}"] if notes else []
    why = f" ({'; '.join(found)})" if found else ""
    more = "; `seglens data check` names them all" if max(len(faults), len(notes)) > FAULTS_SHOWN else ""
    return f"{name} holds no usable image{why}; check the folder and the split{more}"


def _shown(faults: Sequence[RecordFault | Note]) -> str:
    return shortened(faults, FAULTS_SHOWN)


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
