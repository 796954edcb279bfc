"""Where images come from: a file, several, a folder, a glob, the frames of a video."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from seglens.data.images import ImageError, load_image
from seglens.data.reading import IMAGES
from seglens.video import VIDEOS, count_frames, frames


@dataclass(frozen=True, eq=False)
class NamedImage:
    """An image, and `name`: its path in the folder that all have in common, without its ending, or VIDEO_000123.

    `shown` is what a user is told. `file` is None for a frame of a video."""

    name: str
    shown: str
    pixels: UInt8[np.ndarray, "h w 3"]
    file: Path | None


@dataclass(frozen=True)
class BadImage:
    """What could not be used, and a line that names it and says why."""

    shown: str
    says: str


@dataclass(frozen=True)
class Sources:
    """Files in a stable order: as they were named; by path where a folder or a glob was named. Nothing is decoded
    before it is asked for."""

    paths: tuple[Path, ...]
    every: int = 1  # of a video, the first frame and every so manieth after it
    alone: bool = False  # one image file, named by itself

    @classmethod
    def of(cls, words: Sequence[str], every: int = 1, leave_out: Path | None = None) -> Sources:
        """What the words name: image files, videos, folders (all images under them; hidden ones, and what lies under
        `leave_out`, are left alone) and globs (`**` for folders of any depth).

        Raises ValueError on a word that matches nothing that could be an image."""
        if every < 1:
            raise ValueError(f"got every={every}; it needs 1 (all frames of a video) or more")
        paths = tuple(dict.fromkeys(path for word in words for path in _named(word, leave_out)))
        alone = [str(path) for path in paths] == [str(Path(word)) for word in words] and not _is_video(paths[0])
        return cls(paths, every, alone and len(paths) == 1)

    @cached_property
    def root(self) -> Path | None:
        """The folder that all files have in common; None when there are videos, whose frames lie in no file."""
        if any(_is_video(path) for path in self.paths):
            return None
        with suppress(ValueError):  # on two drives
            return Path(os.path.commonpath([path.absolute().parent for path in self.paths]))
        return None

    @property
    def total(self) -> int | None:
        """How many images there will be; None when a video does not say."""
        videos = [path for path in self.paths if _is_video(path)]
        counts = [count_frames(path) for path in videos]
        known = [-(-count // self.every) for count in counts if count]
        return len(self.paths) - len(videos) + sum(known) if len(known) == len(videos) else None

    def __iter__(self) -> Iterator[NamedImage | BadImage]:
        for path in self.paths:
            try:
                yield from self._video(path) if _is_video(path) else self._image(path)
            except ImageError as error:
                yield BadImage(str(path), str(error))

    def _image(self, path: Path) -> Iterator[NamedImage]:
        root = self.root
        inside = path.absolute().relative_to(root) if root else Path(path.name)
        yield NamedImage(inside.with_suffix("").as_posix(), str(path), load_image(path), path)

    def _video(self, path: Path) -> Iterator[NamedImage]:
        for number, pixels in frames(path, self.every):
            yield NamedImage(f"{path.stem}_{number:06d}", f"{path} frame {number}", pixels, None)


def looks_like_a_source(word: str) -> bool:
    """Whether a word can hardly be meant as a query: it ends as an image, a video or a folder does."""
    return word.endswith(("/", os.sep)) or Path(word).suffix.lower() in IMAGES | VIDEOS


def _named(word: str, leave_out: Path | None) -> Iterator[Path]:
    path = Path(word)
    if path.is_dir():
        yield from _folder(path, leave_out)
    elif path.exists() or not glob.has_magic(word):  # brackets may stand in the name of a file
        yield path
    else:
        yield from _glob(word, leave_out)


def _folder(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    files = [path for path in sorted(folder.rglob("*")) if _may_be_meant(path, folder, leave_out)]
    images = [path for path in files if path.suffix.lower() in IMAGES]
    if not images:
        videos = sum(map(_is_video, files))
        hint = f"; it holds {videos} videos: name them, or use a glob" if videos else ": check the path"
        raise ImageError(f"the folder {str(folder)!r} holds no image; need {', '.join(sorted(IMAGES))}{hint}")
    yield from images


def _glob(pattern: str, leave_out: Path | None) -> Iterator[Path]:
    base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    known = [path for path in files if path.suffix.lower() in IMAGES | VIDEOS]
    kept = [path for path in known if _may_be_meant(path, base, leave_out)]
    if not kept:
        met = f"matches {len(files)} files, no image or video among them" if files else "matches nothing"
        raise ImageError(f"{pattern!r} {met}; check the path, and quote it so that the shell leaves it alone")
    yield from kept


def _may_be_meant(path: Path, base: Path, leave_out: Path | None) -> bool:
    """A file, neither hidden nor in a folder of results below the one that is looked through."""
    hidden = any(part.startswith(".") for part in path.relative_to(base).parts)
    below = leave_out is not None and base.absolute() in leave_out.absolute().parents
    ours = leave_out is not None and below and path.absolute().is_relative_to(leave_out.absolute())
    return path.is_file() and not hidden and not ours


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS
