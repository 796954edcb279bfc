"""What a format of files is."""

from __future__ import annotations

import json
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from seglens.exports.page import Page


@dataclass(frozen=True)
class Files:
    """Files of a page: their content by their paths in the export's folder, and for every prediction the path of the
    file that holds its answer (which may be one that is written at the end)."""

    content: dict[str, bytes]
    answers: list[str]


class Format(ABC):
    """Pages in, files out, one page at a time; no page is kept."""

    @abstractmethod
    def page(self, page: Page) -> Files:
        """The files of this page."""

    @abstractmethod
    def note(self, page: Page) -> None:
        """What of a page goes to the files of the whole run; called when the page's own files are written."""

    @abstractmethod
    def finish(self) -> dict[str, Iterable[bytes]]:
        """The files of the whole run, in pieces."""


class PerPage(Format):
    """A format whose files are about one image each."""

    def __init__(self, made: Callable[[Page], Files]):
        self.made = made

    def page(self, page: Page) -> Files:
        return self.made(page)

    def note(self, page: Page) -> None:
        pass

    def finish(self) -> dict[str, Iterable[bytes]]:
        return {}


class Spool:
    """Records that wait on disk, in a file without a name, until the run ends: memory stays flat."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def file(self) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        opened = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 -- open for as long as the spool lives
        weakref.finalize(self, opened.close)
        return opened

    def add(self, record: Any) -> None:
        self.file.write(json.dumps(record, allow_nan=False).encode() + b"\n")

    def array(self) -> Iterator[bytes]:
        """A JSON array of all records."""
        self.file.seek(0)
        before = b"[\n"
        for line in self.file:
            yield before + line.rstrip(b"\n")
            before = b",\n"
        yield b"\n]" if before == b",\n" else b"[]"
