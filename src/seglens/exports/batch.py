"""Many pictures, one after the other: results are written at once, and an error does not end the batch."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from seglens.core.schema import Answer
from seglens.exports import AnnotatedImage, Command, Export, Title
from seglens.inference.compressed_predictions import CompressedPredictions, Folded
from seglens.inference.image_sources import BadImage, ImageFile, NamedImage, Sources
from seglens.inference.opened_image import OpenedImage
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # nothing more can be written: further results would be lost

SHOWN = 60  # letters of a query in a fault


@dataclass(frozen=True)
class ImageOutcome:
    """The results of one picture: answers with their files, and faults. `known`: they are from an earlier run."""

    shown: str
    answers: Sequence[Answer] = ()
    files: Sequence[dict[str, Path]] = ()
    faults: Sequence[BadImage] = ()
    known: bool = False


@dataclass
class BatchRun:
    """Queries to every picture of `sources`, written by an `Export`. The model is loaded when a picture needs it."""

    sources: Sources
    command: Command
    export: Export
    load: Callable[[], Segmenter]
    each: bool | None = None
    trust: bool = False

    def plan(self) -> None:
        """Raises FileExistsError before anything is computed, when results would be written over other files."""
        files = [one for one in self.sources.each if isinstance(one, ImageFile)]
        queries, root = tuple(self.command.queries), self.sources.root
        self.export.plan((one.key, Title(one.name(root), queries, _inside(one.path, root))) for one in files)

    @cached_property
    def segmenter(self) -> Segmenter:
        return self.load()

    def __iter__(self) -> Iterator[ImageOutcome]:
        for image in self.sources:
            yield ImageOutcome(image.shown, faults=[image]) if isinstance(image, BadImage) else self._outcome(image)

    def _outcome(self, image: NamedImage) -> ImageOutcome:
        done = self.export.known(image.key, image.stamp)
        if done is not None:
            return ImageOutcome(image.shown, done.answers, done.files, known=True)
        predictions, faults = self._predictions(image)
        if not predictions:
            return ImageOutcome(image.shown, faults=faults)
        file = None if image.file is None else _inside(image.file, self.sources.root)
        try:
            files = self.export.add(
                AnnotatedImage(image.name, predictions, file, image.key, image.stamp), complete=not faults
            )
        except (OSError, ValueError) as error:
            return ImageOutcome(image.shown, faults=[*faults, _unwritten(image, error)])
        return ImageOutcome(image.shown, [one.answer() for one in predictions], files, faults)

    def _predictions(self, image: NamedImage) -> tuple[Sequence[Prediction], list[BadImage]]:
        """All queries in one pass; where that fails, one by one, so that a bad query does not affect the others."""
        try:
            pixels = image.pixels
        except ValueError as error:
            return [], [BadImage(image.shown, str(error))]
        segmenter = self.segmenter  # a model that cannot be loaded is not a fault of the picture
        try:
            opened = segmenter.open(pixels)
        except (ValueError, MemoryError, torch.OutOfMemoryError) as error:
            return [], [_fault(image, error)]
        try:
            return CompressedPredictions(opened.predictions(list(self.command.queries), self.each, self.trust)), []
        except (ValueError, MemoryError, torch.OutOfMemoryError):
            return self._one_by_one(image, opened)

    def _one_by_one(self, image: NamedImage, opened: OpenedImage) -> tuple[CompressedPredictions, list[BadImage]]:
        predictions, faults = list[Folded](), list[BadImage]()
        for query in self.command.queries:
            try:
                predictions.append(Folded.of(opened.segment(query, self.each, self.trust)))
            except (ValueError, MemoryError, torch.OutOfMemoryError) as error:
                faults.append(_fault(image, error, query))
        return CompressedPredictions(predictions), faults


def _inside(path: Path, root: Path | None) -> str | None:
    """The path relative to the common folder."""
    return None if root is None else path.absolute().relative_to(root).as_posix()


def _fault(image: NamedImage, error: Exception, query: str | None = None) -> BadImage:
    about = "" if query is None else f", {query[:SHOWN]!r}"
    return BadImage(image.shown, f"{image.shown!r}{about}: {error or 'it does not fit into memory'}", query)


def _unwritten(image: NamedImage, error: OSError | ValueError) -> BadImage:
    """Raises OSError when nothing more can be written at all."""
    if isinstance(error, OSError) and error.errno in FULL:
        raise OSError(
            f"{str(error.filename)!r} cannot be written: {error.strerror}; what is done is kept: make room, and the "
            "same command goes on with the rest"
        ) from error
    return BadImage(image.shown, f"the results for {image.shown!r} cannot be written: {error}")
