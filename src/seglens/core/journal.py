"""A journal: JSON lines on disk, of which a kill at any moment loses the last one at most."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

CHUNK = 1 << 16  # bytes that are read at once


class JournalError(ValueError):
    """A file that is no journal, or another one, or damaged: which file, and where."""


class OtherJournalError(JournalError):
    """A journal with another first line, in `header`."""

    def __init__(self, path: Path | None, header: Any):
        super().__init__(f"{path} is the journal of something else: {header}")
        self.header = header


class Journal:
    """Rows in their order. The first line is `header`, which names what the journal is of; a line counts when it has
    its line end; what a killed process wrote after the last line end is removed by the next writer.

    Several processes may write to one file: each row is added whole, under a lock that ends with its process. Without a
    `path` the rows are in a file without a name in the folder `aside`, and end with this process."""

    def __init__(self, header: Mapping[str, Any], path: Path | None, aside: Path | None = None):
        self.header, self.path, self.aside = json.loads(json.dumps(header)), path, aside
        self.read_to = 0  # bytes that `new_rows` has returned

    @cached_property
    def _file(self) -> IO[bytes]:
        """Opened when something is written, or when there is something to read."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # unbuffered: bytes that another process replaces must not be read from a buffer
            opened: IO[bytes] = self.path.open("a+b", buffering=0)
        else:
            if self.aside is not None:
                self.aside.mkdir(parents=True, exist_ok=True)
            opened = tempfile.TemporaryFile(dir=self.aside, buffering=0)  # noqa: SIM115 -- open for as long as the journal lives
        weakref.finalize(self, opened.close)
        return opened

    @property
    def there(self) -> bool:
        """Whether there is anything to read."""
        return "_file" in vars(self) or (self.path is not None and self.path.is_file())

    def new_rows(self) -> Iterator[tuple[int, Any]]:
        """The rows added since the last call, by this process or another, each with its position.

        Raises OtherJournalError, or JournalError on a line that is damaged."""
        if not self.there:
            return
        for place, line in self._lines(self.read_to):
            self.read_to = place + len(line) + 1
            row = self._parsed(line, place)
            if place:
                yield place, row
            elif row != self.header:
                raise OtherJournalError(self.path, row)

    def _lines(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines without their ends, from a position on."""
        rest = b""
        while True:
            self._file.seek(start + len(rest))
            piece = self._file.read(CHUNK)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield start, line
                start += len(line) + 1

    def at(self, place: int) -> Any:
        """The row at a position that `new_rows` returned."""
        return self._parsed(next(self._lines(place))[1], place)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row: it is on the disk when this returns, and one of the `new_rows`."""
        with self.locked():
            self._mend()
            self._write(row)

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """No other process adds a row inside it; may be nested. False where there are no such locks."""
        if self.path is None or sys.platform == "win32" or self._held:
            yield self.path is None or self._held
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            yield False
            return
        self._held = True
        try:
            yield True
        finally:
            self._held = False
            fcntl.flock(self._file, fcntl.LOCK_UN)

    _held = False

    def _mend(self) -> None:
        """Write the first line if it is missing; remove what follows the last line end."""
        end = self._file.seek(0, os.SEEK_END)
        whole = self._last_line_end(end)
        if whole < end:
            self._file.truncate(whole)
        if not whole:
            self._write(self.header)

    def _last_line_end(self, end: int) -> int:
        while end > 0:
            start = max(0, end - CHUNK)
            self._file.seek(start)
            found = self._file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.seek(0, os.SEEK_END)
        left = memoryview(json.dumps(row, allow_nan=False).encode() + b"\n")
        while left:
            left = left[self._file.write(left) :]
        if self.path is not None:
            os.fsync(self._file.fileno())

    def _parsed(self, line: bytes, place: int) -> Any:
        try:
            return json.loads(line)
        except ValueError as error:
            raise JournalError(f"{self.path} is damaged at byte {place} ({error})") from None
