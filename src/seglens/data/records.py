"""A dataset of annotated images: an index that names every bad record and goes on, and samples decoded on demand.

A dataset family is one function that turns its files into `ImageRecord`s and `RecordFault`s; all the rest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Literal, get_args

from seglens.core.types import Sample
from seglens.data.faults import DataError, Note, RecordFault, first_of, nothing_usable, refusal, too_many
from seglens.data.image_record import Choose, ImageRecord, MoreQueries, decode

Bad = Literal["refuse", "few", "skip"]
FEW, ENOUGH = 0.05, 20  # the share of bad records that "few" leaves out; as many bad ones do not settle a share yet


@dataclass(frozen=True)
class UnusableQueries:
    """Queries that are not used because one of their records is bad. Only a check decodes them, to report what else is
    wrong with them."""

    entry: ImageRecord


class Records:
    """A dataset of annotated images.

    Raises DataError with the first faults and their number, when the index holds any and `bad` is "refuse"; with
    "skip" these records are left out and listed in `faults`. An image or mask that turns out to be bad when it is
    decoded raises DataError with "refuse"; with "skip" it is left out and added to `faults`, once. "few" is "skip"
    while at most 5 % of the records are bad, in the index and among those decoded so far; more raise DataError: that
    is no slip, but an incomplete download or the wrong folder. An image without any query (a label map of ignored
    pixels only) is not bad: iterating leaves it out. `notes` are of the index;
    `unusable`: see `UnusableQueries`; `classes` are all the names of a closed vocabulary, whether an image has them or
    not; `vocabulary` those that may be asked for where an image does not show them (by default the same)."""

    def __init__(
        self,
        name: str,
        records: Iterable[ImageRecord | UnusableQueries | RecordFault | Note],
        *,
        trainable: bool,
        bad: Bad = "refuse",
        classes: tuple[str, ...] = (),
        vocabulary: tuple[str, ...] | Callable[[], tuple[str, ...]] | None = None,
    ):
        if bad not in get_args(Bad):
            raise DataError(f"{name} got bad={bad!r}; choose {' or '.join(get_args(Bad))}")
        self.name, self.trainable, self.bad, self.classes = name, trainable, bad, classes
        self.faults, self.notes, entries = list[RecordFault](), list[Note](), dict[str, ImageRecord]()
        self.unusable: list[ImageRecord] = []
        for record in records:
            if isinstance(record, RecordFault):
                self.faults.append(record)
            elif isinstance(record, UnusableQueries):
                self.unusable.append(record.entry)
            elif isinstance(record, Note):
                self.notes.append(record)
            elif entries.setdefault(record.id, record) is not record:
                message = "is the id of more than one image"
                self.faults.append(RecordFault(record.file, record.id, message, "duplicate id"))
        self.entries: Sequence[ImageRecord] = list(entries.values())
        names = vocabulary() if callable(vocabulary) else vocabulary  # known when all records are read
        self.vocabulary = classes if names is None else names
        self._known = set(self.faults)
        self._decoded, self._bad = 0, 0  # records, whenever they are read
        if self.faults and bad == "refuse":
            raise DataError(refusal(name, self.faults), self.faults)
        if bad == "few" and len(self.faults) > FEW * (len(self.faults) + len(entries)):
            raise DataError(too_many(name, len(self.faults), len(self.faults) + len(entries), self.faults), self.faults)
        if not entries:
            self._add_faults(self.unusable_faults())
            raise DataError(nothing_usable(name, self.faults, self.notes), self.faults, self.notes)

    def without(self, excluded: Callable[[ImageRecord], bool]) -> Records:
        """The same data without some of its images. Raises DataError when none is left."""
        rest = copy(self)
        rest.entries = [entry for entry in self.entries if not excluded(entry)]
        if not rest.entries:
            raise DataError(f"{self.name} has no image that is not to be left out; do without this dataset")
        return rest

    def some(self, most: int) -> Records:
        """The same data with at most so many of its images, spread evenly."""
        rest, count = copy(self), min(most, len(self.entries))
        rest.entries = [self.entries[at * len(self.entries) // count] for at in range(count)]
        return rest

    def with_queries(self, name: str, more: MoreQueries) -> Records:
        """The same data with further queries for each image, under another name."""
        copied = copy(self)
        copied.name = name
        copied.entries = [replace(entry, more=more) for entry in self.entries]
        return copied

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        sample, faults = self.usable(index)
        if sample is None:
            message = f"{self.name} has nothing to ask about {self.entries[index].id}"
            if faults:
                message = f"{self.name} has nothing usable of {self.entries[index].id}: {first_of(faults)}"
            raise DataError(f"{message}; iterate to leave it out", faults)
        return sample

    def count(self, index: int) -> int:
        """How many queries an image has, by its annotation alone (0 for a bad label map with bad=skip)."""
        entry = self.entries[index]
        try:
            return len(entry.all_queries())
        except ValueError as error:
            if self.bad != "refuse":
                return 0
            faults = [RecordFault(entry.file, entry.id, str(error))]
            raise DataError(refusal(self.name, faults), faults) from error

    def usable(self, index: int, choose: Choose | None = None) -> tuple[Sample | None, list[RecordFault]]:
        """As `decode`, but raises DataError for what is wrong with bad=refuse, and adds it to `faults` otherwise."""
        sample, faults = self.decode(index, choose)
        self.note(0 if sample is None else len(sample.targets), faults)
        return sample, faults

    def note(self, targets: int, faults: Sequence[RecordFault]) -> None:
        """Count the usable targets of an image that was decoded, here or in another process, and add its faults to
        `faults`, each once.

        Raises DataError on any fault with bad=refuse, and on too many of them with few."""
        if faults and self.bad == "refuse":
            raise DataError(refusal(self.name, faults), faults)
        self._add_faults(faults)
        self._bad += len(faults)
        self._decoded += len(faults) + targets
        if self.bad == "few" and self._bad > ENOUGH and self._bad > FEW * self._decoded:
            raise DataError(too_many(self.name, self._bad, self._decoded, self.faults), self.faults)

    def _add_faults(self, faults: Iterable[RecordFault]) -> None:
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
        self, index: int, choose: Choose | None = None, least: int | None = None
    ) -> tuple[Sample | None, list[RecordFault]]:
        """As `image_record.decode`."""
        return decode(self.entries[index], choose, least)

    def check(self) -> Iterator[RecordFault]:
        """Every bad record: those of the index, then those that only decoding every image and mask can find."""
        known = set(self.faults)
        yield from list(self.faults)
        for index in range(len(self)):
            yield from (fault for fault in self.decode(index)[1] if fault not in known)
        yield from self.unusable_faults()

    def unusable_faults(self) -> Iterator[RecordFault]:
        """What else is wrong with unusable queries. A fault of their image is left out where its other queries, or the
        index, report it."""
        images = {entry.id for entry in self.entries}
        for entry in self.unusable:
            reported = entry.id in images or not entry.image.is_file()
            yield from (f for f in decode(entry)[1] if not (reported and f.kind in ("image", "image size")))
