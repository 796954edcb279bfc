"""Everything that is wrong with a dataset or worth a look, in one pass."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from seglens.core.types import Sample
from seglens.data.faults import Note, RecordFault
from seglens.data.image_record import ImageRecord
from seglens.data.images import orientation
from seglens.data.records import Records


class Check:
    """One pass over `records`: iterate for every RecordFault and Note; the counts are those of the pass so far.

    `limit` decodes only the first images. `duplicates` also compares the files of the images (by SHA-256): a picture
    under two ids counts twice, or is in training and in test data."""

    def __init__(self, records: Records, limit: int | None = None, duplicates: bool = False):
        self.records, self.duplicates = records, duplicates
        self.total = len(records) if limit is None else min(limit, len(records))
        self.images = self.queries = self.absent = self.spoken = 0  # usable ones

    def __iter__(self) -> Iterator[RecordFault | Note]:
        yield from self.records.faults
        yield from self.records.notes
        files: dict[bytes, ImageRecord] = {}
        known = set(self.records.faults)
        for index in range(self.total):
            entry = self.records.entries[index]
            sample, faults = self.records.decode(index)
            yield from (fault for fault in faults if fault not in known)
            if sample is None and not faults:
                yield Note(entry.file, entry.id, "shows nothing to ask about (ignored pixels only)")
            if sample is not None:
                self.images += 1
                self.queries += len(sample.targets)
                self.spoken += sum(target.spoken for target in sample.targets)
                self.absent += sum(not target.present for target in sample.drawn().targets)
                yield from _notes(entry, sample)
            if self.duplicates and entry.image.is_file():
                twin = files.setdefault(_content(entry.image), entry)
                no_masks = sample is not None and not sample.drawn().targets  # an image may have many such records
                if twin is not entry and not (no_masks and twin.image == entry.image):
                    message = f"{entry.image} has the same bytes as {twin.image} of {twin.id}; keep one of them"
                    yield RecordFault(entry.file, entry.id, message, "duplicate image")
        if self.total == len(self.records):
            yield from self.records.unusable_faults()


def _notes(entry: ImageRecord, sample: Sample) -> Iterator[Note]:
    turned = orientation(entry.image)
    if turned > 1:
        message = (
            f"has EXIF orientation {turned} and is turned upright; make sure that its masks were drawn upright too"
        )
        yield Note(entry.file, entry.id, message)
    drawn = sample.drawn().targets
    for target in drawn:
        if target.mask.all():
            yield Note(entry.file, entry.id, f"the mask of {target.query!r} covers the whole image")
    for query, times in Counter(target.query for target in drawn).items():
        if times > 1:
            message = f"{query!r} occurs {times} times; the same words with different masks cannot all be right"
            yield Note(entry.file, entry.id, message)


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
