"""Pages to files in a folder, one page at a time; a file that is not of the same run is never overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from seglens.core.files import ELSEWHERE, Digest, check_folder, digest, holds, prepared
from seglens.core.names import check_name
from seglens.exports.base import Files
from seglens.exports.formats import DEFAULT, FORMATS
from seglens.exports.ledger import Command, Done, Ledger, WrittenFile
from seglens.exports.page import AnnotatedImage, PageSummary, Title, alike, file_name


class Export:
    """A run of pages to a folder. Files of a page are written together, all or none; files of the whole run when the
    `with` ends, also by an error or an interrupt: they then hold the pages that are done. No page is stored.

    A file by anything else is never overwritten, unless `overwrite` allows it, and a file of `sources` (the pictures of
    the pages) not even then. With a `command` the folder has a ledger: the same command goes on where an earlier run
    stopped, however that ended, and several processes may write to one folder.

    Raises ValueError on an unknown format, FileExistsError where a file of the whole run is not this command's, OSError
    where the folder cannot be written."""

    def __init__(
        self,
        folder: str | Path,
        formats: Sequence[str] = DEFAULT,
        command: Command | None = None,
        sources: Iterable[Path] = (),
        overwrite: bool = False,
    ):
        for name in formats:
            check_name(name, FORMATS, "format")
        self.folder, self.overwrite, self.anew = Path(folder), overwrite, overwrite
        check_folder(self.folder)
        self.formats = {name: FORMATS[name]() for name in formats}
        self.sources = {_identity(path) for path in sources} - {None}
        self.ledger = Ledger(self.folder, command, tuple(formats))
        self.pages = 0  # added, or known from earlier
        self.changed: list[Path] = []  # files of known pages that were changed since they were written
        self.order: dict[str, int] = {}  # of the planned pages, by the keys of their pictures
        for format in self.formats.values():
            for path in format.whole:
                self._check(path, self.ledger.command.covering())

    def plan(self, titles: Iterable[tuple[str, Title]]) -> None:
        """Names for later pages, by the keys of their pictures. Raises FileExistsError, before anything is computed,
        when one of their files exists and is not this command's."""
        for key, title in titles:
            self.order.setdefault(key, len(self.order))
            for path, query in self._paths(replace(title, name=self._name(title, key))).items():
                self._check(path, self.ledger.command.about(key, query), None)

    def begin(self) -> None:
        """Before other processes `join`."""
        with self._writing():
            pass

    def join(self, titles: Iterable[tuple[str, Title]]) -> None:
        """As `plan`, for a process that takes part in a run that another one has begun: it may have written files."""
        self.anew = False
        with self._writing():
            self.plan(titles)

    def known(self, key: str, stamp: str) -> Done | None:
        """The page of a picture that is already written: it need not be computed again, and counts as added."""
        done = None if self.overwrite else self.ledger.done_page(key, stamp)
        if done is not None:
            self.pages += 1
            self.changed += done.changed
        return done

    def add(self, page: AnnotatedImage, complete: bool = True) -> list[dict[str, Path]]:
        """Write a page. For each of its predictions: the file that holds its answer, by format. A page that is not
        `complete` is computed again by the next run of the command.

        Raises FileExistsError where a file is not this command's; nothing of the page is then written."""
        key = page.key or f"page {self.pages}"
        with self._writing():
            page = replace(page, name=self._name(page.title, key), key=key)
            outputs = {name: format.page(page) for name, format in self.formats.items()}
            paths = [{name: files.answers[k] for name, files in outputs.items()} for k in range(len(page.predictions))]
            written = dict[str, WrittenFile]()
            with prepared(self._checked(page, outputs.values(), written), self.ledger.aside) as place:
                self.ledger.page(page, paths, written, complete)
                place()
        self.pages += 1
        return [{name: self.folder / path for name, path in one.items()} for one in paths]

    def _checked(
        self, page: AnnotatedImage, outputs: Iterable[Files], written: dict[str, WrittenFile]
    ) -> Iterator[tuple[Path, list[bytes]]]:
        """The files of a page, one after the other, each added to `written`. Raises FileExistsError where one must not
        be written."""
        queries = self._paths(page.title)
        for path, data, about in (one for files in outputs for one in files.content):
            if path not in written:  # several formats may have a file in common
                recipe = self.ledger.command.about(page.key, queries.get(path, about))
                self._check(path, recipe, page.stamp, data)
                written[path] = WrittenFile(recipe, len(data), digest(data))
                yield self.folder / path, [data]

    def _paths(self, title: Title) -> dict[str, str | None]:
        return {path: query for format in self.formats.values() for path, query in format.paths(title).items()}

    def _name(self, title: Title, key: str) -> str:
        """A name whose files belong to no other picture: two folders may hold files of one name."""
        base, number = file_name(title.name), 1
        name = self.ledger.names.get(key, base)
        while not self._is_free(replace(title, name=name), key):
            number += 1
            name = f"{base}_{number}"
        self.ledger.claim(key, name, list(self._paths(replace(title, name=name))))
        return name

    def _is_free(self, title: Title, key: str) -> bool:
        claims = self.ledger.claims
        return all(claims.get(alike(taken), key) == key for taken in (title.name, *self._paths(title)))

    def _check(self, path: str, recipe: str, stamp: str | None = "", data: bytes | None = None) -> None:
        """Raises FileExistsError when there is something at `path` that this command must not overwrite. It may
        overwrite what it wrote itself, by the same `recipe` and from the same picture (None: whatever its stamp is),
        and a file of the same `data`."""
        where, known = self.folder / path, self.ledger.written.get(path)
        if not os.path.lexists(where):
            return
        if _identity(where) in self.sources:
            raise FileExistsError(f"{str(where)!r} is a picture that is to be segmented; choose another folder")
        same = known is not None and known.recipe == recipe and stamp in (None, known.stamp)
        untouched = same and known is not None and (stamp is None or known.is_still(where))
        if not (self.overwrite or untouched or (data is not None and holds(where, data))):
            why = "was changed after this command wrote it" if same else f"is there already, {self.ledger.author(path)}"
            raise FileExistsError(f"{str(where)!r} {why}; {ELSEWHERE}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self.ledger.locked():
            if self.anew:
                self.ledger.anew()
                self.anew = False
            for format in self.formats.values():
                format.note(self.ledger.queries)
            yield

    def __enter__(self) -> Export:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pages:
            self._finish()

    def _finish(self) -> None:
        with self._writing():
            recipe, summaries = self.ledger.command.covering(), _WrittenPages(self.ledger, self.order)
            parts = {path: _Counted(some) for f in self.formats.values() for path, some in f.finish(summaries).items()}
            for path in parts:
                self._check(path, recipe)
            if parts:
                files = ((self.folder / path, some) for path, some in parts.items())
                with prepared(files, self.ledger.aside) as place:
                    self.ledger.whole({path: some.written(recipe) for path, some in parts.items()})
                    place()


class _WrittenPages:
    """The written pages; may be iterated over several times."""

    def __init__(self, ledger: Ledger, order: Mapping[str, int]):
        self.ledger, self.order = ledger, order

    def __iter__(self) -> Iterator[PageSummary]:
        return self.ledger.summaries(self.order)


class _Counted:
    """Pieces of a file; its size and digest are known after the last one."""

    def __init__(self, parts: Iterable[bytes]):
        self.parts, self.size, self.digest = parts, 0, Digest()

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            self.size += len(part)
            self.digest.update(part)
            yield part

    def written(self, recipe: str) -> WrittenFile:
        return WrittenFile(recipe, self.size, self.digest.hexdigest())


def _identity(path: Path) -> tuple[int, int] | None:
    """Equal for two names of one file; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def write_results(
    pages: Iterable[AnnotatedImage], folder: str | Path, formats: Sequence[str] = DEFAULT, overwrite: bool = False
) -> None:
    """All pages to files, as `Export` does."""
    with Export(folder, formats, overwrite=overwrite) as export:
        for page in pages:
            export.add(page)
