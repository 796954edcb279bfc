"""Files of benchmarks: text by line, JSON, tables, and where they and their images are."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seglens.evaluation.vqa.questions import BenchmarkError

SHOWN = 200  # characters of a header that an error repeats


def folder_near(file: Path, names: Sequence[str]) -> Path:
    """The first folder of these names that is there, beside the file or one or two folders above; else the first name
    beside it."""
    places = [above / name for above in list(file.absolute().parents)[:3] for name in names]
    return next((place for place in places if place.is_dir()), file.parent / names[0])


def only_file(root: str, patterns: Sequence[str], what: str) -> Path:
    """The file `root`; of a folder, the file in it or its subfolders that matches the first pattern with a match."""
    path = Path(root)
    if not path.is_dir():
        return path
    for pattern in patterns:
        matches = sorted(path.glob(f"**/{pattern}"))
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise BenchmarkError(
                f"{root} holds {len(matches)} files {pattern}; name one with --root: {matches[0]} is the first"
            )
    raise BenchmarkError(f"{root} holds no {' and no '.join(patterns)}; name {what}'s folder or its file with --root")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers from 1, ends kept; a byte order mark is left out."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BenchmarkError(
                    f"{path}:{number}: byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
                ) from error


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file with their line numbers; empty lines are left out."""
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BenchmarkError(
                f"{path}:{number}: not JSON ({error.msg}, column {error.colno}); need an object per line"
            ) from error
        if not isinstance(row, dict):
            raise BenchmarkError(f"{path}:{number}: got a {type(row).__name__}; need an object per line")
        yield number, row


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    text = "".join(line for _, line in lines(path))
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
    except json.JSONDecodeError as error:
        raise BenchmarkError(
            f"{path}:{error.lineno}: not JSON ({error.msg}); the file is cut short or damaged"
        ) from error


def _once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise BenchmarkError(f"{path}: {twice!r} is there twice; keep one")
    return entries


def table(path: Path, needs: Sequence[str], delimiter: str = "\t") -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table with a header, as pandas writes it (fields may be quoted and hold line ends), each with the
    number of its first line. `needs` are columns that must be there."""
    limit = csv.field_size_limit(sys.maxsize)  # images are long; the limit is the whole process's
    start = 1
    try:
        rows = csv.reader((line for _, line in lines(path)), delimiter=delimiter, strict=True)
        header = next(rows, [])
        lacking = [name for name in needs if name not in header]
        if lacking:
            got = ", ".join(header)[:SHOWN] or "nothing"
            raise BenchmarkError(f"{path}:1: no column {', '.join(lacking)}; the header holds {got}")
        start = rows.line_num + 1
        for row in rows:
            if len(row) != len(header):
                raise BenchmarkError(
                    f"{path}:{start}: got {len(row)} fields; the header names {len(header)}: "
                    "the file is cut short or damaged"
                )
            yield start, dict(zip(header, row, strict=True))
            start = rows.line_num + 1
    except csv.Error as error:
        raise BenchmarkError(f"{path}:{start}: {error}; the file is cut short or damaged") from error
    finally:
        csv.field_size_limit(limit)


def text_of(row: Mapping[str, Any], key: str, where: str) -> str:
    """The text of a field that must be there and not be empty."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise BenchmarkError(f"{where}: {key} is {value!r}; need text; the fields are {', '.join(row)}")
    return value
