"""What a head is shown, by number: an endless stream, the same whoever asks for which part of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from seglens.core.types import Sample
from seglens.data.mixing import ATTEMPTS, Mixed, SampledImage
from seglens.features.frozen import ExampleIndex, FeatureSource, TrainingExample


@runtime_checkable
class ExampleStream(Protocol):
    """Image n of the stream with the questions put about it, through the frozen parts."""

    def lesson(self, number: int) -> TrainingExample: ...

    def name(self, number: int) -> str:
        """Where image n comes from, for a person."""

    def fingerprint(self) -> str:
        """Tells one stream from another."""


@runtime_checkable
class Order(Protocol):
    """Which source, image and questions come as number n. Its `repr` tells it from another."""

    def draw(self, number: int) -> SampledImage: ...


@dataclass(frozen=True)
class FeatureStream:
    """From sources of features (read from disk, or live) in the order of a mixture or of epochs."""

    sources: Sequence[FeatureSource]
    order: Order

    def lesson(self, number: int) -> TrainingExample:
        draw = self._draw(number)
        return self.sources[draw.source].features(ExampleIndex(draw.image, draw.questions, number))

    def _draw(self, number: int) -> SampledImage:
        """In place of an image that its data leaves out comes the next that it does not."""
        for tried in range(number, number + ATTEMPTS):
            if (draw := self.order.draw(tried)).questions:
                return draw
        raise ValueError(f"{ATTEMPTS} images from number {number} on have no question; look at `seglens data check`")

    def name(self, number: int) -> str:
        draw = self._draw(number)
        return f"image {draw.image}" + (f" of source {draw.source}" if len(self.sources) > 1 else "")

    def fingerprint(self) -> str:
        return _hash([[source.fingerprint() for source in self.sources], repr(self.order)])


@dataclass(frozen=True)
class DatasetStream:
    """From a mixture of datasets as they lie, in fresh prompts at every draw, read when it is their turn. `key` is all
    that decides what `read` gives of a sample and the number of the lesson."""

    mixed: Mixed
    read: Callable[[Sample, int], TrainingExample]
    key: Mapping[str, Any]

    def lesson(self, number: int) -> TrainingExample:
        return self.read(self.mixed.sample(number), number)

    def name(self, number: int) -> str:
        return self.mixed.sample(number).id

    def fingerprint(self) -> str:
        datasets = [[dataset.name, len(dataset)] for dataset in self.mixed.datasets]
        return _hash([datasets, repr(self.mixed.mixture), self.mixed.prompt, self.key])


def _hash(made: Any) -> str:
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]
