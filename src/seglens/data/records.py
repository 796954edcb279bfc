"""Annotated images on disk: an index that names every bad record and goes on, and samples decoded on demand.

A dataset family is one function that turns its files into `Entry`s and `Fault`s; all the rest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from seglens.data.images import load_image
from seglens.types import Sample, Target

FAULTS_SHOWN = 3
Bad = Literal["refuse", "skip"]


class DataError(ValueError):
    """Data that cannot be used: the file, the record and what is wrong with it."""


@dataclass(frozen=True)
class Fault:
    """One bad record: the annotation (or image) file, the record's id in it, and what is wrong."""

    file: str
    record: str
    says: str

    def __str__(self) -> str:
        return f"{self.file}: {self.record}: {self.says}"


@dataclass(frozen=True)
class Drawn:
    """A decoded mask, and the pixels that count neither for nor against a prediction."""

    mask: Bool[np.ndarray, "h w"]
    ignore: Bool[np.ndarray, "h w"] | None = None


@runtime_checkable
class MaskSource(Protocol):
    """A mask as its file holds it (polygons, run lengths, a label map): decoded only when asked for."""

    def draw(self, size: tuple[int, int]) -> Drawn:
        """The mask at (height, width) of its image. Raises ValueError that says what is wrong with it."""


@dataclass(frozen=True)
class Ask:
    """One query of an annotation file. `record` is its id there; `kind` says what sort of words it is: phrase, class,
    part, sentence."""

    query: str
    mask: MaskSource
    record: str
    kind: str = "phrase"
    answer: str | None = None


@dataclass(frozen=True)
class Entry:
    """An image with its queries, nothing decoded. `asks` may be a function where only the label map knows them (it may
    raise ValueError). `size` is (height, width) if the annotation names it."""

    id: str
    image: Path
    file: str
    asks: tuple[Ask, ...] | Callable[[], tuple[Ask, ...]]
    size: tuple[int, int] | None = None


class Records:
    """A dataset of annotated images.

    Raises DataError, naming the first faults and their number, when the index holds any and `bad` is "refuse"; with
    "skip" they are left out, and `faults` names them. An image or mask that turns out bad when it is decoded raises
    DataError in `sample`; iterating leaves it out with "skip", and adds it to `faults`."""

    def __init__(self, name: str, found: Iterable[Entry | Fault], *, trainable: bool, bad: Bad = "refuse"):
        if bad not in ("refuse", "skip"):
            raise DataError(f"{name} got bad={bad!r}; choose refuse or skip")
        entries: list[Entry] = []
        self.name, self.trainable, self.bad, self.faults = name, trainable, bad, list[Fault]()
        for one in found:
            (self.faults if isinstance(one, Fault) else entries).append(one)  # type: ignore[arg-type]
        self.entries: Sequence[Entry] = entries
        if self.faults and bad == "refuse":
            raise DataError(refusal(name, self.faults))
        if not entries:
            raise DataError(f"{name} holds no usable image; check the folder, the split and `seglens data check`")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        sample, faults = self.decode(index)
        if sample is None or (faults and self.bad == "refuse"):
            raise DataError(refusal(self.name, faults))
        return sample

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self)):
            sample, faults = self.decode(index)
            if faults and self.bad == "refuse":
                raise DataError(refusal(self.name, faults))
            self.faults += [fault for fault in faults if fault not in self.faults]
            if sample is not None:
                yield sample

    def decode(self, index: int) -> tuple[Sample | None, list[Fault]]:
        """The sample without its bad targets (None when nothing usable remains), and a Fault for each bad thing."""
        entry = self.entries[index]
        try:
            image = load_image(entry.image)
        except ValueError as error:
            return None, [Fault(entry.file, entry.id, str(error))]
        size = image.shape[:2]
        if entry.size is not None and entry.size != size:
            says = f"the annotation says {_by(entry.size)} (height x width), and {entry.image} has {_by(size)}"
            return None, [Fault(entry.file, entry.id, says)]
        targets, faults = list[Target](), list[Fault]()
        try:
            asks = entry.asks() if callable(entry.asks) else entry.asks
        except ValueError as error:
            return None, [Fault(entry.file, entry.id, str(error))]
        for ask in asks:
            try:
                drawn = ask.mask.draw(size)
            except ValueError as error:
                faults.append(Fault(entry.file, ask.record, str(error)))
            else:
                targets.append(Target(ask.query, drawn.mask, ask.kind, drawn.ignore, ask.answer))
        return Sample(entry.id, image, tuple(targets)) if targets else None, faults

    def check(self) -> Iterator[Fault]:
        """Every bad record: those of the index, then those that only decoding every image and mask can find."""
        yield from list(self.faults)
        for index in range(len(self)):
            yield from self.decode(index)[1]


def refusal(name: str, faults: Sequence[Fault]) -> str:
    """One line for a person: the first faults, how many there are, and what to do."""
    more = len(faults) - FAULTS_SHOWN
    shown = "; ".join(map(str, faults[:FAULTS_SHOWN])) + (f"; and {more} more" if more > 0 else "")
    return f"{name} has {len(faults)} bad records: {shown}; mend them, or leave them out with bad=skip"


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
