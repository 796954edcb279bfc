"""Many pictures: results are written as they come, and an error does not end the run."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from threading import Lock

from seglens.core.schema import Answer
from seglens.exports import AnnotatedImage, Command, Export, Title
from seglens.inference.compressed_predictions import bare
from seglens.inference.image_answers import Answering, ImageAnswers, Known
from seglens.inference.image_batches import MOST, PIXELS
from seglens.inference.image_sources import BadImage, ImageFile, NamedImage, Sources
from seglens.inference.segmenter import Segmenter

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # nothing more can be written: further results would be lost


@dataclass(frozen=True)
class ImageOutcome:
    """The results of one picture: answers with their files, and faults. `known`: they are from an earlier run."""

    shown: str
    answers: Sequence[Answer] = ()
    files: Sequence[dict[str, Path]] = ()
    faults: Sequence[BadImage] = ()
    known: bool = False


@dataclass(frozen=True)
class Share:
    """Of the blocks of a run, those of one of `count` processes: `number`, `number + count`, ..., from `first` on."""

    number: int = 0
    count: int = 1
    first: int = 0

    def holds(self, block: int) -> bool:
        return block >= self.first and block % self.count == self.number


@dataclass
class BatchRun:
    """Queries to every picture of `sources`, written by an `Export`. The model is loaded when a picture needs it."""

    sources: Sources
    command: Command
    export: Export
    load: Callable[[], Segmenter]
    each: bool | None = None
    trust: bool = False
    most: int | None = None  # pictures that share a pass, as in `Answering`
    share: Share = Share()

    def __post_init__(self) -> None:
        self.answering = Answering(self.load, self.command.queries, self.each, self.trust, self.most)
        self.writing = Lock()  # the export is asked by the thread that decodes, too

    def plan(self) -> None:
        """Raises FileExistsError before anything is computed, when results would be written over other files."""
        self.export.plan(self.titles())

    def titles(self) -> Iterator[tuple[str, Title]]:
        """Of the pages of all files, by the keys of their pictures."""
        files = (one for one in self.sources.each if isinstance(one, ImageFile))
        queries, root = tuple(self.command.queries), self.sources.root
        return ((one.key, Title(one.name(root), queries, _inside(one.path, root))) for one in files)

    def __iter__(self) -> Iterator[ImageOutcome]:
        """In the order of the sources. Pictures are decoded and results are written by threads, while the next are
        computed."""
        writer, pending = ThreadPoolExecutor(1), deque[tuple[Future[ImageOutcome], int]]()
        try:
            with closing(self.answering.answers(self._items())) as answers:
                for one in answers:
                    pending.append((writer.submit(self._outcome, one), _pixels(one)))
                    del one
                    while pending and (pending[0][0].done() or _is_much(pending)):
                        yield pending.popleft()[0].result()
            while pending:
                yield pending.popleft()[0].result()
        finally:
            writer.shutdown(cancel_futures=True)

    def _items(self) -> Iterator[NamedImage | Known[ImageOutcome]]:
        """The pictures that are to be computed, and the outcomes of all others. What is known is computed again where
        it shares passes with what is not: a run that goes on then gives the bytes of one run."""
        images = iter(self.sources)
        for number in count():
            block = list(islice(images, self.answering.block))
            if not block:
                return
            if not self.share.holds(number):
                continue
            outcomes = list(map(self._known, block))
            done = None not in outcomes
            for image, outcome in zip(block, outcomes, strict=True):
                mate = None if done or isinstance(image, BadImage) else image
                if outcome is not None:
                    yield Known(outcome, mate)
                elif mate is not None:
                    yield mate

    def _known(self, image: NamedImage | BadImage) -> ImageOutcome | None:
        if isinstance(image, BadImage):
            return ImageOutcome(image.shown, faults=[image])
        with self.writing:
            done = self.export.known(image.key, image.stamp)
        return None if done is None else ImageOutcome(image.shown, done.answers, done.files, known=True)

    def _outcome(self, one: ImageAnswers | Known[ImageOutcome]) -> ImageOutcome:
        if isinstance(one, Known):
            return one.outcome
        image, predictions, faults = one.image, one.predictions, one.faults
        if not predictions:
            return ImageOutcome(image.shown, faults=faults)
        file = None if image.file is None else _inside(image.file, self.sources.root)
        page = AnnotatedImage(image.name, predictions, file, image.key, image.stamp)
        try:
            with self.writing:
                files = self.export.add(page, complete=not faults)
        except (OSError, ValueError) as error:
            return ImageOutcome(image.shown, faults=[*faults, _unwritten(image, error)])
        return ImageOutcome(image.shown, [one.answer() for one in predictions], files, faults)


def _pixels(one: ImageAnswers | Known[ImageOutcome]) -> int:
    if isinstance(one, Known) or not one.predictions:
        return 0
    return bare(one.predictions)[0].image[..., 0].size


def _is_much(pending: Iterable[tuple[Future[ImageOutcome], int]]) -> bool:
    """Whether results that wait to be written take as much memory as they may."""
    sizes = [pixels for _, pixels in pending]
    return len(sizes) > MOST or sum(sizes) >= PIXELS


def _inside(path: Path, root: Path | None) -> str | None:
    """The path relative to the common folder."""
    return None if root is None else path.absolute().relative_to(root).as_posix()


def _unwritten(image: NamedImage, error: OSError | ValueError) -> BadImage:
    """Raises OSError when nothing more can be written at all."""
    if isinstance(error, OSError) and error.errno in FULL:
        raise OSError(
            f"{str(error.filename)!r} cannot be written: {error.strerror}; what is done is kept: make room, and the "
            "same command goes on with the rest"
        ) from error
    return BadImage(image.shown, f"the results for {image.shown!r} cannot be written: {error}")
