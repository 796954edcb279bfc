"""The same queries about many pictures: decoded beside the computation, answered in batches, and none of them ended by
a bad one. A run on one machine and one on many both use this."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8

from seglens.core.ahead import ahead
from seglens.inference.compressed_predictions import CompressedPredictions, Folded
from seglens.inference.image_batches import MOST, PIXELS, batch_size, in_batches, predictions_of_batch
from seglens.inference.image_sources import BadImage, NamedImage
from seglens.inference.opened_image import OpenedImage
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter

SHORTAGES = (MemoryError, torch.OutOfMemoryError)
FAILURES = (ValueError, *SHORTAGES)  # of a picture or a query; all other errors end the run
SHOWN = 60  # letters of a query in a fault

T = TypeVar("T")


@dataclass(frozen=True)
class ImageAnswers:
    """What came of one picture: predictions, compressed, of the queries that could be answered, and faults."""

    image: NamedImage
    predictions: Sequence[Prediction] = ()
    faults: Sequence[BadImage] = ()


@dataclass(frozen=True)
class Known(Generic[T]):
    """An `outcome` that is known already. With its `image` it takes part in the passes of its block, where others are
    still to be answered: the rounding of their answers is then that of the first time."""

    outcome: T
    image: NamedImage | None = None


@dataclass(frozen=True, eq=False)
class _Decoded(Generic[T]):
    image: NamedImage
    pixels: UInt8[np.ndarray, "h w 3"]
    known: Known[T] | None = None


@dataclass
class Answering:
    """Answers `queries` about pictures. `load` is called when the first picture needs the segmenter; at `most` so many
    pictures share a pass, by default as many as `batch_size` finds useful and has room for."""

    load: Callable[[], Segmenter]
    queries: Sequence[str]
    each: bool | None = None
    trust: bool = False
    most: int | None = None

    @cached_property
    def segmenter(self) -> Segmenter:
        return self.load()

    @cached_property
    def size(self) -> int:
        """Pictures that share a pass: fewer after a shortage of memory."""
        return self.most or batch_size(self.segmenter)

    @property
    def block(self) -> int:
        """Items whose pictures share passes: the first so many, the next so many, ... To rounding, the answers about a
        picture depend on the others of its block."""
        return self.most or MOST

    def answers(self, items: Iterable[NamedImage | Known[T]]) -> Generator[ImageAnswers | Known[T]]:
        """The answers about each picture, in order; what is known is given back in its place. A thread takes the items
        and decodes their pictures."""
        decoded: Iterator[_Decoded[T] | ImageAnswers | Known[T]] = map(_decoded, items)
        with closing(ahead(decoded, self.block, PIXELS, _pixels)) as ready:
            for batch in in_batches(ready, self.block, _pixels):
                images = [one for one in batch if isinstance(one, _Decoded)]
                answers = self._answers(images) if any(one.known is None for one in images) else iter(())
                for one in batch:
                    answer = next(answers, None) if isinstance(one, _Decoded) else None
                    outcome = one.known or answer if isinstance(one, _Decoded) else one
                    assert outcome is not None
                    yield outcome

    def _answers(self, images: Sequence[_Decoded]) -> Iterator[ImageAnswers]:
        while images:
            batch, images = images[: self.size], images[self.size :]
            yield from self._batch(batch) if len(batch) > 1 else [self._alone(batch[0])]

    def _batch(self, batch: Sequence[_Decoded]) -> Iterator[ImageAnswers]:
        """A batch that needs too much memory is halved, with all after it. Where a picture or a query is refused, each
        picture is answered alone."""
        pixels, queries = [one.pixels for one in batch], [list(self.queries)] * len(batch)
        try:
            predictions = predictions_of_batch(self.segmenter, pixels, queries, each=self.each, trust=self.trust)
        except FAILURES as error:
            short = isinstance(error, SHORTAGES)
        else:
            yield from map(self._compressed, batch, predictions)
            return
        if short:  # here the frames of the error, and what they hold, are gone
            self.size = len(batch) // 2
            yield from self._answers(batch)
        else:
            yield from self._refused(batch)

    def _refused(self, batch: Sequence[_Decoded]) -> Iterator[ImageAnswers]:
        answers = [self._alone(one) for one in batch]
        if all(one.faults for one in answers):
            self.size = 1  # a query is refused, and will be again
        yield from answers

    def _compressed(self, one: _Decoded, predictions: Iterator[Prediction]) -> ImageAnswers:
        try:
            return ImageAnswers(one.image, CompressedPredictions(predictions))
        except FAILURES:
            pass
        return self._alone(one)

    def _alone(self, one: _Decoded) -> ImageAnswers:
        """All queries in one pass; where that fails, one by one, so that a bad query does not affect the others."""
        segmenter = self.segmenter  # a model that cannot be loaded is not a fault of the picture
        try:
            opened = segmenter.open(one.pixels)
        except FAILURES as error:
            return ImageAnswers(one.image, faults=[_fault(one.image, error)])
        try:
            predictions = opened.predictions(list(self.queries), self.each, self.trust)
            return ImageAnswers(one.image, CompressedPredictions(predictions))
        except FAILURES:
            pass
        return self._one_by_one(one.image, opened)

    def _one_by_one(self, image: NamedImage, opened: OpenedImage) -> ImageAnswers:
        predictions, faults = list[Folded](), list[BadImage]()
        for query in self.queries:
            try:
                predictions.append(Folded.of(opened.segment(query, self.each, self.trust)))
            except FAILURES as error:
                faults.append(_fault(image, error, query))
        return ImageAnswers(image, CompressedPredictions(predictions), faults)


def _decoded(item: NamedImage | Known[T]) -> _Decoded[T] | ImageAnswers | Known[T]:
    image, known = (item.image, item) if isinstance(item, Known) else (item, None)
    if image is None:
        assert known is not None
        return known
    try:
        return _Decoded(image, image.pixels, known)
    except ValueError as error:
        return known or ImageAnswers(image, faults=[BadImage(image.shown, str(error))])


def _pixels(item: object) -> int:
    return item.pixels.shape[0] * item.pixels.shape[1] if isinstance(item, _Decoded) else 0


def _fault(image: NamedImage, error: Exception, query: str | None = None) -> BadImage:
    about = "" if query is None else f", {query[:SHOWN]!r}"
    return BadImage(image.shown, f"{image.shown!r}{about}: {error or 'it does not fit into memory'}", query)
