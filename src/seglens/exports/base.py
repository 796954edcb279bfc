"""The interface of a format of files."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from seglens.exports.page import AnnotatedImage, PageSummary, Title, missing_place, picture


class OutputFile(NamedTuple):
    """A file by its path in the export's folder. `about` is its query, for a file that is not among the format's
    `paths`."""

    path: str
    data: bytes
    about: str | None = None


@dataclass(frozen=True)
class Files:
    """Files of a page, made one by one (the pictures of a page with many queries are never in memory together), and for
    every prediction the path of the file that holds its answer (which may be a file that is written at the end)."""

    content: Iterable[OutputFile]
    answers: list[str]


class Format(ABC):
    """Pages in, files out, one page at a time; no page is stored."""

    whole: tuple[str, ...] = ()  # the paths of the files of the whole run

    @abstractmethod
    def paths(self, title: Title) -> Mapping[str, str | None]:
        """The files that a page of this title has, whatever the predictions, each with its query, or None if it is
        about all. Further files for single things may be added."""

    @abstractmethod
    def page(self, page: AnnotatedImage) -> Files:
        """The files of this page."""

    def note(self, queries: Iterable[str]) -> None:  # noqa: B027 -- most formats number nothing
        """All queries so far, in their order, of this process and of those whose work it continues."""

    def finish(self, summaries: Iterable[PageSummary]) -> dict[str, Iterable[bytes]]:
        """The files of the whole run, in pieces, from all written pages; `summaries` may be iterated over again."""
        return {}


class PerPage(Format):
    """A format whose files are about one image each."""

    def __init__(self, paths: Callable[[Title], Mapping[str, str | None]], files: Callable[[AnnotatedImage], Files]):
        self._paths, self._files = paths, files

    def paths(self, title: Title) -> Mapping[str, str | None]:
        return self._paths(title)

    def page(self, page: AnnotatedImage) -> Files:
        return self._files(page)


def missing_picture(page: AnnotatedImage) -> Iterator[OutputFile]:
    """The image at its `missing_place`."""
    return (OutputFile(place, picture(page.image)) for place in missing_place(page.title))


def array(records: Iterable[Any]) -> Iterator[bytes]:
    """A JSON array, a line per record."""
    before = b"[\n"
    for record in records:
        yield before + json.dumps(record, allow_nan=False).encode()
        before = b",\n"
    yield b"\n]" if before == b",\n" else b"[]"
