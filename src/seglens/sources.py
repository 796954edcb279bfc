"""Where images come from: a file, several, a folder, a glob, the frames of a video, standard input."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from seglens.data.images import ImageError, load_image
from seglens.finding import Found, find
from seglens.video import VIDEOS, count_frames, frames

STDIN = "-"
LARGEST = 2**30  # bytes that are read of standard input: an image of the most pixels, stored without packing, has less


@dataclass(frozen=True, eq=False)
class NamedImage:
    """An image, and `name`: its path in the folder that all have in common, without its ending, or VIDEO_000123.

    `shown` is what a user is told. `file` is None for what lies in no file of its own, as a frame of a video."""

    name: str
    shown: str
    pixels: UInt8[np.ndarray, "h w 3"]
    file: Path | None


@dataclass(frozen=True)
class BadImage:
    """What could not be used, and a line that names it and says why."""

    shown: str
    says: str


class Source(ABC):
    """Where one image or several come from."""

    @property
    @abstractmethod
    def shown(self) -> str:
        """What a user is told."""

    @property
    @abstractmethod
    def count(self) -> int | None:
        """How many images there will be; None when nothing says so."""

    @abstractmethod
    def images(self, root: Path | None) -> Iterator[NamedImage]:
        """Decoded as they are asked for. Raises ImageError."""


@dataclass(frozen=True)
class File(Source):
    """An image file."""

    path: Path
    count = 1

    @property
    def shown(self) -> str:
        return str(self.path)

    def images(self, root: Path | None) -> Iterator[NamedImage]:
        inside = self.path.absolute().relative_to(root) if root else Path(self.path.name)
        yield NamedImage(inside.with_suffix("").as_posix(), self.shown, load_image(self.path), self.path)


@dataclass(frozen=True)
class Video(Source):
    """The first frame of a video, and every so manieth after it."""

    path: Path
    every: int

    @property
    def shown(self) -> str:
        return str(self.path)

    @property
    def count(self) -> int | None:
        known = count_frames(self.path)
        return -(-known // self.every) if known else None

    def images(self, root: Path | None) -> Iterator[NamedImage]:
        for number, pixels in frames(self.path, self.every):
            yield NamedImage(f"{self.path.stem}_{number:06d}", f"{self.path} frame {number}", pixels, None)


@dataclass(frozen=True)
class Piped(Source):
    """One image on standard input."""

    shown = "standard input"
    count = 1

    def images(self, root: Path | None) -> Iterator[NamedImage]:
        yield NamedImage("stdin", self.shown, load_image(_piped()), None)


@dataclass(frozen=True)
class Sources:
    """What was named, in a stable order: as it was named; by path where a folder or a glob was named. Nothing is
    decoded before it is asked for. `left_out` counts the files of folders and globs that are no images."""

    each: tuple[Source, ...]
    alone: bool = False  # one image, named by itself
    left_out: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, words: Sequence[str], every: int = 1) -> Sources:
        """What the words name: image files, videos, "-" for an image on standard input, and what `finding.find` knows.

        Raises ValueError on a folder or a glob that holds nothing of use."""
        if every < 1:
            raise ValueError(f"got every={every}; it needs 1 (all frames of a video) or more")
        each, left_out = dict[Source, None](), Counter[str]()
        for word in words:
            found = Found(()) if word == STDIN else find(word)
            each |= dict.fromkeys([Piped()] if word == STDIN else [_source(path, every) for path in found.paths])
            left_out += found.left_out
        alone = len(words) == 1 and not found.searched and not isinstance(next(iter(each)), Video)
        return cls(tuple(each), alone, left_out)

    @cached_property
    def root(self) -> Path | None:
        """The folder that all files have in common; None when there are images that lie in no file."""
        paths = [one.path for one in self.each if isinstance(one, File)]
        if len(paths) < len(self.each):
            return None
        with suppress(ValueError):  # on two drives
            return Path(os.path.commonpath([path.absolute().parent for path in paths]))
        return None

    @property
    def total(self) -> int | None:
        """How many images there will be; None when a video does not say."""
        counts = [one.count for one in self.each]
        return None if None in counts else sum(count for count in counts if count is not None)

    def __iter__(self) -> Iterator[NamedImage | BadImage]:
        for one in self.each:
            try:
                yield from one.images(self.root)
            except ImageError as error:
                yield BadImage(one.shown, str(error))


def read_one(word: str) -> UInt8[np.ndarray, "h w 3"]:
    """The image that one word names: a file, or "-" for standard input. Raises ImageError."""
    return load_image(_piped() if word == STDIN else Path(word))


def name_of(word: str) -> str:
    """What the results about such an image are called after."""
    return "stdin" if word == STDIN else Path(word).stem


def _source(path: Path, every: int) -> Source:
    return Video(path, every) if path.suffix.lower() in VIDEOS else File(path)


def _piped() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise ImageError(
            "'-' reads an image from standard input, which is a terminal; as in: cat x.png | seglens ... -"
        )
    data = sys.stdin.buffer.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ImageError(f"standard input holds more than {LARGEST} bytes; need one image file")
    if not data:
        raise ImageError("standard input is empty; need the bytes of one image file")
    return data
