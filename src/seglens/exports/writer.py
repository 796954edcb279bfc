"""Pages to files in a folder, one page at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from seglens.exports.formats import DEFAULT, FORMATS
from seglens.exports.page import Page, file_name
from seglens.files import write_parts, write_together
from seglens.names import check_name


class Export:
    """A run of pages to a folder. Files of a page are written together, all or none; files of the whole run when the
    `with` ends, also by an error or an interrupt: they then hold the pages that are done. No page is kept.

    Raises ValueError on a format that nobody knows, OSError where the folder cannot be written."""

    def __init__(self, folder: str | Path, formats: Sequence[str] = DEFAULT):
        for name in formats:
            check_name(name, FORMATS, "format")
        self.folder = Path(folder)
        self.formats = {name: FORMATS[name](self.folder) for name in formats}
        self.taken: set[str] = set()
        self.used = False

    def add(self, page: Page) -> list[dict[str, Path]]:
        """Write a page. For each of its predictions: the file that holds its answer, by format."""
        page = self._named(page)
        made = {name: format.page(page) for name, format in self.formats.items()}
        content = {self.folder / path: data for files in made.values() for path, data in files.content.items()}
        write_together(content)
        for format in self.formats.values():
            format.note(page)
        self.used = True
        return [
            {name: self.folder / files.answers[k] for name, files in made.items()} for k in range(len(page.predictions))
        ]

    def _named(self, page: Page) -> Page:
        """With a name that shares no file with an earlier page: two folders may hold files of one name."""
        name, number = file_name(page.name), 1
        while True:
            named = replace(page, name=name if number == 1 else f"{name}_{number}")
            files = {named.name, *named.file_names()}
            if not files & self.taken:
                self.taken |= files
                return named
            number += 1

    def __enter__(self) -> Export:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.used:
            for format in self.formats.values():
                for path, parts in format.finish().items():
                    write_parts(self.folder / path, parts)


def write(pages: Iterable[Page], folder: str | Path, formats: Sequence[str] = DEFAULT) -> None:
    """All pages to files, as `Export` does."""
    with Export(folder, formats) as export:
        for page in pages:
            export.add(page)
