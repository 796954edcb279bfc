"""What a format of files is."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from seglens.exports.page import AnnotatedImage, Leaf, Title, missing_place, picture


class Made(NamedTuple):
    """A file by its path in the export's folder. `about` is, of one that is not among the format's `paths`, the query
    that it is about."""

    path: str
    data: bytes
    about: str | None = None


@dataclass(frozen=True)
class Files:
    """Files of a page, each made when its turn comes (the pictures of a page with many queries are never in memory
    together), and for every prediction the path of the file that holds its answer (which may be one that is written at
    the end)."""

    content: Iterable[Made]
    answers: list[str]


class Format(ABC):
    """Pages in, files out, one page at a time; no page is kept."""

    whole: tuple[str, ...] = ()  # the paths of the files of the whole run

    @abstractmethod
    def paths(self, title: Title) -> Mapping[str, str | None]:
        """The files that a page of this title has, whatever is found, each with the one query that it is about, None if
        it is about all. Files for what is found may come beside them."""

    @abstractmethod
    def page(self, page: AnnotatedImage) -> Files:
        """The files of this page."""

    def note(self, queries: Iterable[str]) -> None:  # noqa: B027 -- most formats number nothing
        """What was asked so far, in its order, by this process and by those whose work goes on."""

    def finish(self, leaves: Iterable[Leaf]) -> dict[str, Iterable[bytes]]:
        """The files of the whole run, in pieces, of all pages that are written; these may be gone through again."""
        return {}


class PerPage(Format):
    """A format whose files are about one image each."""

    def __init__(self, named: Callable[[Title], Mapping[str, str | None]], made: Callable[[AnnotatedImage], Files]):
        self.named, self.made = named, made

    def paths(self, title: Title) -> Mapping[str, str | None]:
        return self.named(title)

    def page(self, page: AnnotatedImage) -> Files:
        return self.made(page)


def missing_picture(page: AnnotatedImage) -> Iterator[Made]:
    """The image at its `missing_place`."""
    return (Made(place, picture(page.image)) for place in missing_place(page.title))


def array(records: Iterable[Any]) -> Iterator[bytes]:
    """A JSON array, a line per record."""
    before = b"[\n"
    for record in records:
        yield before + json.dumps(record, allow_nan=False).encode()
        before = b",\n"
    yield b"\n]" if before == b",\n" else b"[]"
