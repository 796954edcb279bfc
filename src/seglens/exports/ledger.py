"""A ledger of what was written into a folder, by which command, from which pictures; it is in the folder itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seglens.core.files import digest, file_digest
from seglens.core.journal import Journal, JournalError
from seglens.core.schema import Answer
from seglens.exports.page import AnnotatedImage, PageSummary, alike

HIDDEN = ".seglens"  # the folder of the ledger, in the folder of an export
HEADER = {"seglens": "what was written into this folder", "version": 1}


@dataclass(frozen=True)
class Command:
    """What determines the answers about a picture: the queries and, by their names, all other settings; `root` is the
    folder that `AnnotatedImage.file` is relative to."""

    queries: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    root: str | None = None

    def covering(self) -> str:
        """Equal for commands whose pages belong into the same files of a whole run."""
        return _digest(self.settings, self.queries, self.root)

    def about(self, key: str, query: str | None) -> str:
        """Equal for commands that write the same into a file about a picture, and one of its queries or all."""
        return _digest(self.settings, key, self.queries if query is None else [query])


@dataclass(frozen=True)
class WrittenFile:
    """A file as it was written: what determines its content (see `Command`), and the content itself; `stamp` is that of
    its picture, `place` that of its row in the journal."""

    recipe: str
    size: int
    digest: str
    stamp: str = ""
    place: int = 0

    def is_still(self, path: Path) -> bool:
        """Whether the file still has the content that was written."""
        return path.is_file() and path.stat().st_size == self.size and file_digest(path) == self.digest


@dataclass(frozen=True)
class Done:
    """A page that is written: its answers, and for each the files that hold it, by format. Files that were changed
    since then are left as they are."""

    answers: list[Answer]
    files: list[dict[str, Path]]
    changed: list[Path]


class Ledger:
    """The ledger of a folder for one command. Without a command nothing is known from earlier runs, or stored for
    later."""

    def __init__(self, folder: Path, command: Command | None, formats: tuple[str, ...]):
        self.folder, self.formats, self.command = folder, formats, command or Command(())
        self.aside = None if command is None else folder / HIDDEN / "aside"  # where files are written first
        self.journal = Journal(HEADER, None if command is None else folder / HIDDEN / "journal.jsonl", folder)
        self.written: dict[str, WrittenFile] = {}
        self.claims: dict[str, str] = {}  # names of pages and paths of files, as `alike` has them: the picture's key
        self.names: dict[str, str] = {}  # of pages, by the key of their picture
        self.queries: dict[str, None] = {}  # of this command's pages, in the order of their first use
        self.pages: dict[str, int] = {}  # of this command, by key: the place of the last row
        self.done: dict[str, int] = {}  # those of them that need not be computed again
        self.refresh()

    def refresh(self) -> None:
        """Read what was added, by this process or another."""
        try:
            for place, row in self.journal.new_rows():
                self._take_in(place, row)
        except JournalError as error:
            raise JournalError(
                f"{error}; choose another folder, or delete {self.folder / HIDDEN}, which forgets what was written"
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process writes into the folder meanwhile, and everything that others wrote is known. Files that a
        killed process left half-written are removed."""
        with self.journal.locked() as alone:
            self.refresh()
            if alone and self.aside is not None:
                shutil.rmtree(self.aside, ignore_errors=True)
            if self.aside is not None:
                self.aside.mkdir(parents=True, exist_ok=True)
            yield

    def claim(self, key: str, name: str, paths: Sequence[str]) -> None:
        """Reserve names against pages of other pictures."""
        self.names[key] = name
        self.claims |= dict.fromkeys(map(alike, (name, *paths)), key)

    def page(
        self, page: AnnotatedImage, paths: list[dict[str, str]], files: Mapping[str, WrittenFile], complete: bool
    ) -> None:
        """Record a page, before its files are moved to their places: whatever happens then, they are this command's."""
        summary = page.summary()
        self.journal.add(
            {
                "page": page.name,
                "key": page.key,
                "stamp": page.stamp,
                "file": page.file,
                "complete": complete,
                "size": [summary.width, summary.height],
                "answers": [one.model_dump(mode="json") for one in summary.answers],
                "said": paths,
                "files": _rows(files),
                "formats": self.formats,
                "command": asdict(self.command),
            }
        )
        self.refresh()

    def whole(self, files: Mapping[str, WrittenFile]) -> None:
        """Record files of the whole run, before they are moved to their places."""
        self.journal.add({"files": _rows(files), "command": asdict(self.command)})
        self.refresh()

    def anew(self) -> None:
        """Forget the pages of this command: it starts again."""
        if self.pages:
            self.journal.add({"anew": self.command.covering()})
            self.refresh()

    def done_page(self, key: str, stamp: str) -> Done | None:
        """The page of a picture in this state, if this command wrote it in all formats and its files exist."""
        row = self.journal.at(self.done[key]) if key in self.done else None
        if row is None or row["stamp"] != stamp:
            return None
        sizes = {self.folder / path: size for path, (_, size, _) in row["files"].items()}
        if not all(path.is_file() for path in sizes):
            return None
        paths = [{kind: self.folder / path for kind, path in one.items()} for one in row["said"]]
        return Done(_answers(row), paths, [path for path, size in sizes.items() if path.stat().st_size != size])

    def summaries(self, order: Mapping[str, int]) -> Iterator[PageSummary]:
        """All written pages of this command: those with a place in `order`, by their keys, and then the others in the
        order of their first writing."""
        for key in sorted(self.pages, key=lambda key: order.get(key, len(order))):
            place = self.pages[key]
            row = self.journal.at(place)
            width, height = row["size"]
            yield PageSummary(row["page"], width, height, _answers(row), row["file"])

    def author(self, path: str) -> str:
        """The origin of a file, in words: how it differs from this command."""
        known = self.written.get(path)
        if known is None:
            return "and not from this command"
        row = self.journal.at(known.place)
        if unlike := _difference(row["command"], asdict(self.command)):
            return f"from another command ({unlike})"
        return f"made of {row['key']} as it was then"

    def _take_in(self, place: int, row: dict[str, Any]) -> None:
        if row.get("anew") == self.command.covering():
            self.pages, self.done, self.queries = {}, {}, {}
        for path, (recipe, size, content) in row.get("files", {}).items():
            self.written[path] = WrittenFile(recipe, size, content, row.get("stamp", ""), place)
        if "page" in row:
            self.claim(row["key"], row["page"], list(row["files"]))
            self._take_page(place, row, Command(**row["command"]))

    def _take_page(self, place: int, row: dict[str, Any], command: Command) -> None:
        if command.covering() != self.command.covering() or not set(self.formats) & set(row["formats"]):
            return
        self.pages[row["key"]] = place
        self.queries |= dict.fromkeys(answer["query"] for answer in row["answers"])
        if row["complete"] and set(self.formats) <= set(row["formats"]):
            self.done[row["key"]] = place


def _rows(files: Mapping[str, WrittenFile]) -> dict[str, list[Any]]:
    return {path: [one.recipe, one.size, one.digest] for path, one in files.items()}


def _answers(row: Mapping[str, Any]) -> list[Answer]:
    return [Answer.model_validate(one) for one in row["answers"]]


def _digest(*values: Any) -> str:
    return digest(json.dumps(values, sort_keys=True).encode())


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The differences of two commands, in words."""
    one, other = (
        {**command["settings"], "queries": list(command["queries"]), "folder of the pictures": command["root"]}
        for command in (theirs, ours)
    )
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return "; ".join(f"{name}: {_in_words(one.get(name))} there, {_in_words(other.get(name))} here" for name in names)


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(repr, value)) or "none"
    return "not given" if value is None else str(value)
