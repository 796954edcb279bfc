"""What every dataset is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from seglens.types import Sample


@runtime_checkable
class Dataset(Protocol):
    """Anything with a length and samples by number."""

    @property
    def trainable(self) -> bool:
        """False for data that is kept for tests."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...
    def __iter__(self) -> Iterator[Sample]: ...


def classes_of(dataset: Dataset) -> tuple[str, ...]:
    """All the names of a closed vocabulary, for evaluation over them; empty where anything may be asked."""
    return getattr(dataset, "classes", ())  # most datasets have none, and need not say so
