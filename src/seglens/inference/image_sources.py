"""Where images come from: a file, several, a folder, a glob, the frames of a video, standard input."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from seglens.core.files import digest, stamp
from seglens.data.image_decoding import ImageError
from seglens.data.images import load_image
from seglens.inference.image_files import find
from seglens.inference.video import VIDEOS, count_frames, frames

STDIN = "-"
LARGEST = 2**30  # bytes read from standard input: the largest image allowed, stored uncompressed, has fewer


@dataclass(frozen=True, eq=False)
class NamedImage:
    """An image, which is decoded when its `pixels` are read.

    `name` is its path in the folder that all share, without its ending, or VIDEO_000123; `shown` is its name for
    users; `key` identifies the image, and `stamp` its state. `file` is None for an image that is no file, such as a
    frame of a video."""

    name: str
    shown: str
    key: str
    stamp: str
    load: Callable[[], UInt8[np.ndarray, "h w 3"]]
    file: Path | None = None

    @property
    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """Raises ImageError."""
        return self.load()


@dataclass(frozen=True)
class BadImage:
    """An image that could not be used, and a line with its name and the reason; with a query, only that query
    failed."""

    shown: str
    says: str
    query: str | None = None


class PictureSource(ABC):
    """Where one image or several come from."""

    @property
    @abstractmethod
    def shown(self) -> str:
        """Its name for users."""

    @property
    @abstractmethod
    def count(self) -> int | None:
        """How many images there will be; None when that is unknown."""

    @abstractmethod
    def images(self, root: Path | None) -> Iterator[NamedImage]:
        """One after the other. Raises ImageError."""


@dataclass(frozen=True)
class ImageFile(PictureSource):
    """An image file."""

    path: Path
    count = 1

    @property
    def shown(self) -> str:
        return str(self.path)

    @property
    def key(self) -> str:
        return os.path.abspath(self.path)

    def name(self, root: Path | None) -> str:
        inside = self.path.absolute().relative_to(root) if root else Path(self.path.name)
        return inside.with_suffix("").as_posix()

    def images(self, root: Path | None) -> Iterator[NamedImage]:
        yield NamedImage(self.name(root), self.shown, self.key, _stamp(self.path), self._load, self.path)

    def _load(self) -> UInt8[np.ndarray, "h w 3"]:
        return load_image(self.path)


@dataclass(frozen=True)
class Video(PictureSource):
    """The first frame of a video, and every `every`-th after it."""

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
        key, stamped = os.path.abspath(self.path), _stamp(self.path)
        for number, pixels in frames(self.path, self.every):
            name, shown = f"{self.path.stem}_{number:06d}", f"{self.path} frame {number}"
            yield NamedImage(name, shown, f"{key} frame {number}", stamped, partial(_same, pixels))


@dataclass(frozen=True)
class Piped(PictureSource):
    """One image on standard input."""

    shown = "standard input"
    count = 1

    def images(self, root: Path | None) -> Iterator[NamedImage]:
        data = _piped()
        yield NamedImage("stdin", self.shown, f"standard input {digest(data)}", "", partial(load_image, data))


@dataclass(frozen=True)
class Sources:
    """The named images, in a stable order: as they were named; by path within a folder or a glob. Each is decoded when
    it is read. `left_out` counts the files of folders and globs that are no images."""

    each: tuple[PictureSource, ...]
    alone: bool = False  # a single image
    left_out: Counter[str] = field(default_factory=Counter)
    bases: tuple[Path, ...] = ()  # folders that were named, or that hold the named files

    @classmethod
    def of(cls, words: Sequence[str], every: int = 1) -> Sources:
        """The images that words name: image files, videos, "-" for an image on standard input, and what `find` accepts.

        Raises ValueError on a folder or a glob that holds nothing of use."""
        if every < 1:
            raise ValueError(f"got every={every}; it needs 1 (all frames of a video) or more")
        each, left_out, bases, searched = dict[PictureSource, None](), Counter[str](), list[Path](), False
        for word in words:
            if word == STDIN:
                each[Piped()] = None
                continue
            found = find(word)
            each |= dict.fromkeys(_source(path, every) for path in found.paths)
            left_out += found.left_out
            bases.append(found.base)
            searched = found.searched
        alone = len(words) == 1 and not searched and not isinstance(next(iter(each)), Video)
        return cls(tuple(each), alone, left_out, tuple(bases))

    @cached_property
    def root(self) -> Path | None:
        """The folder that all share; None when some images are no files."""
        if not all(isinstance(one, ImageFile) for one in self.each):
            return None
        with suppress(ValueError):  # on two drives
            return Path(os.path.commonpath([path.absolute() for path in self.bases]))
        return None

    @property
    def paths(self) -> list[Path]:
        """The paths of all named files."""
        return [one.path for one in self.each if isinstance(one, ImageFile | Video)]

    @property
    def total(self) -> int | None:
        """How many images there will be; None when that of a video is unknown."""
        counts = [one.count for one in self.each]
        return None if None in counts else sum(count for count in counts if count is not None)

    def __iter__(self) -> Iterator[NamedImage | BadImage]:
        for one in self.each:
            try:
                yield from one.images(self.root)
            except ImageError as error:
                yield BadImage(one.shown, str(error))


def one_image(word: str) -> NamedImage:
    """The image that one word names: a file, or "-" for standard input. Raises ImageError."""
    source = Piped() if word == STDIN else ImageFile(Path(word))
    (image,) = source.images(None)
    return image


def _source(path: Path, every: int) -> PictureSource:
    return Video(path, every) if path.suffix.lower() in VIDEOS else ImageFile(path)


def _stamp(path: Path) -> str:
    """Empty for a file that cannot be read: decoding it raises the error."""
    with suppress(OSError, ValueError):
        return stamp(path) if path.is_file() else ""
    return ""


def _same(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return pixels


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
