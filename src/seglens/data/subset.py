"""The first images of any dataset."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from seglens.core.types import Sample
from seglens.data.dataset import Dataset, DatasetWrapper, usable
from seglens.data.faults import RecordFault


class Limited(DatasetWrapper):
    """The first `count` images of `inner`, or all if it has fewer.

    Iterating does not count images that are left out, so that it gives `count` images if there are enough."""

    def __init__(self, inner: Dataset, count: int):
        if count < 1:
            raise ValueError(f"got limit={count}; it must be at least 1")
        self.inner, self.count = inner, count

    def __len__(self) -> int:
        return min(self.count, len(self.inner))

    def __getitem__(self, index: int) -> Sample:
        return self.inner[self._checked(index)]

    def usable(self, index: int) -> tuple[Sample | None, list[RecordFault]]:
        return usable(self.inner, self._checked(index))

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no image {index}; the limit leaves {len(self)}")
        return index

    def __iter__(self) -> Iterator[Sample]:
        return islice(iter(self.inner), len(self))
