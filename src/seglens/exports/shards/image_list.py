"""A million images by number, none of them read: files, lists of paths, rows of Parquet files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from seglens.core.files import digest
from seglens.data.image_decoding import ImageError
from seglens.data.images import load_image
from seglens.inference.image_files import find
from seglens.inference.image_sources import NamedImage
from seglens.inference.video import VIDEOS

TABLE, LIST = ".parquet", ".txt"
COLUMNS = ("image", "bytes", "path")  # the first of them that a Parquet file has


@dataclass(frozen=True)
class ListedImage:
    """An image by its name in the results: a file, or the row of a Parquet file."""

    name: str
    path: Path
    row: int | None = None

    def state(self) -> str:
        """Size and time of its file: another one means another content. Empty where there is no file."""
        try:
            status = self.path.stat()
        except OSError:
            return ""
        return f"{status.st_size} {status.st_mtime_ns}"

    def load(self) -> UInt8[np.ndarray, "h w 3"]:
        """Raises ImageError."""
        return load_image(self.path if self.row is None else _cell(self.path, self.row))


class ImageList(Sequence[NamedImage]):
    """The images that words name, in a stable order: image files, folders, globs; `.txt` files with a path in each line
    (from the folder of the list), and `.parquet` files with a column `image` ({bytes, path} as the hub has it, or
    bytes), `bytes` or `path`.

    Raises ImageError on a word that names none, or a video."""

    def __init__(self, listed: Iterable[ListedImage]):
        self.listed = tuple({(one.path, one.row): one for one in listed}.values())  # each once

    @classmethod
    def of(cls, words: Sequence[str]) -> ImageList:
        parts = [_of_word(word) for word in words]
        files = [path for part in parts if isinstance(part, list) for path in part]
        root = Path(os.path.commonpath([path.parent for path in files])) if files else Path()
        return cls(
            one for part in parts for one in (part if isinstance(part, _Table) else (_named(p, root) for p in part))
        )

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, index: int) -> NamedImage:  # type: ignore[override]
        one = self.listed[index]
        return NamedImage(one.name, one.name, one.name, "", one.load)

    @property
    def digest(self) -> str:
        """Of the names."""
        return digest("\n".join(one.name for one in self.listed).encode())

    def state(self, indices: range) -> str:
        """A digest of the files of some images: it changes when one of them does."""
        return digest("\n".join(self.listed[index].state() for index in indices).encode())


class _Table:
    """The rows of a Parquet file."""

    def __init__(self, path: Path):
        self.path, self.rows = path, _opened(path).metadata.num_rows
        _column(path)

    def __iter__(self) -> Iterator[ListedImage]:
        return (ListedImage(f"{self.path.name}:{row}", self.path, row) for row in range(self.rows))


def _named(path: Path, root: Path) -> ListedImage:
    name = path.relative_to(root).as_posix()
    return ListedImage(name.encode("utf-8", "backslashreplace").decode(), path)  # a table holds text only


def _of_word(word: str) -> list[Path] | _Table:
    path = Path(os.path.expanduser(word))
    if path.suffix.lower() == TABLE and not glob.has_magic(word):
        return _Table(path.absolute())
    if path.suffix.lower() == LIST and path.is_file():
        lines = (line.strip() for line in path.read_text("utf-8-sig").splitlines())
        paths = [(path.parent / line).absolute() for line in lines if line]
        if not paths:
            raise ImageError(f"the list {word!r} is empty; need a path in each line")
    else:
        paths = [one.absolute() for one in find(word).paths]
    videos = [one for one in paths if one.suffix.lower() in VIDEOS]
    if videos:
        raise ImageError(
            f"{str(videos[0])!r} is a video; shards are of images: segment videos without --ray and --shard"
        )
    return paths


def import_parquet() -> Any:
    """pyarrow with its `parquet`. Raises ImportError, with the command that installs it."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"Parquet files need pyarrow ({error}); run: pip install 'seglens[general]'") from error
    return pyarrow


@lru_cache(maxsize=4)
def _opened(path: Path) -> Any:
    parquet = import_parquet().parquet
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{str(path)!r} is no Parquet file that can be read ({' '.join(str(error).split())})"
        ) from error


def _column(path: Path) -> str:
    names = _opened(path).schema_arrow.names
    found = next((name for name in COLUMNS if name in names), None)
    if found is None:
        raise ImageError(f"{str(path)!r} has the columns {', '.join(names)}; need one of {', '.join(COLUMNS)}")
    return found


@lru_cache(maxsize=2)  # rows are read in order
def _group(path: Path, group: int) -> Any:
    return _opened(path).read_row_group(group, columns=[_column(path)])


def _cell(path: Path, row: int) -> bytes | Path:
    """The bytes of an image, or its file. Raises ImageError."""
    group, first = _place(path, row)
    cell = _group(path, group).column(0)[row - first].as_py()
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str) and cell:
        return path.parent / cell
    if isinstance(cell, bytes) and cell:
        return cell
    raise ImageError(f"row {row} of {str(path)!r} has no image: neither bytes nor a path")


def _place(path: Path, row: int) -> tuple[int, int]:
    """The row group of a row, and the first row of that."""
    metadata, first = _opened(path).metadata, 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if row < first + rows:
            return group, first
        first += rows
    raise ImageError(f"{str(path)!r} has no row {row} any more; it was changed while it was read")
