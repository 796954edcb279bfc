"""What every dataset is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from seglens.core.types import Sample
from seglens.data.faults import RecordFault


@runtime_checkable
class Dataset(Protocol):
    """Anything with a length and samples by number."""

    @property
    def trainable(self) -> bool:
        """False for data that is reserved for tests."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...
    def __iter__(self) -> Iterator[Sample]: ...


@runtime_checkable
class PartialDataset(Protocol):
    """A dataset that may leave samples out."""

    @property
    def faults(self) -> Sequence[RecordFault]:
        """The faults that are known so far."""

    def usable(self, index: int) -> tuple[Sample | None, list[RecordFault]]:
        """The sample, or None where iterating leaves it out, and its faults. Raises ValueError where iterating does."""


class DatasetWrapper:
    """A dataset made from another one, `inner`, with the properties that it takes from it. A base of final classes."""

    inner: Dataset

    @property
    def trainable(self) -> bool:
        return self.inner.trainable

    @property
    def classes(self) -> tuple[str, ...]:
        return classes_of(self.inner)

    @property
    def faults(self) -> Sequence[RecordFault]:
        return faults_of(self.inner)


def usable(dataset: Dataset, index: int) -> tuple[Sample | None, list[RecordFault]]:
    """One sample as iterating gives it: for processes that share a dataset and read their part of it by number."""
    return dataset.usable(index) if isinstance(dataset, PartialDataset) else (dataset[index], [])


def faults_of(dataset: Dataset) -> Sequence[RecordFault]:
    """The faults of a dataset that are known so far."""
    return dataset.faults if isinstance(dataset, PartialDataset) else ()


def classes_of(dataset: Dataset) -> tuple[str, ...]:
    """All the names of a closed vocabulary, for evaluation over them; empty for an open one."""
    return getattr(dataset, "classes", ())  # most datasets have none
