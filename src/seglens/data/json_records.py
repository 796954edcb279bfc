"""Files of many records: JSON lines, or one JSON list. Read one at a time, and a bad one does not stop the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seglens.data.faults import RecordFault
from seglens.data.reading import read_json
from seglens.data.rng import pick, words

BOM = b"\xef\xbb\xbf"


def objects(file: Path, need: str, most: int | None = None) -> Iterator[tuple[str, dict[str, Any] | RecordFault]]:
    """The objects of a file with their names in faults ("line 3", "item 3"), or a RecordFault for one that cannot be
    used. A file without any usable object is one RecordFault. `need` names what an object must hold; of more than
    `most` objects, that many are chosen at random, always the same ones.

    Raises DataError where the file is one JSON list and cannot be read."""
    unread, any_read = list[tuple[str, RecordFault]](), False
    for record, line in _some(file, most):
        try:
            value = _value(line, need) if isinstance(line, bytes) else line
            if not isinstance(value, dict):
                raise ValueError(f"is {type(value).__name__}; it needs an object with {need}")
        except ValueError as error:
            fault = RecordFault(str(file), record, str(error))
            if any_read:
                yield record, fault
            else:
                unread.append((record, fault))
            continue
        if not any_read:
            any_read = True
            yield from unread
            unread = []
        yield record, value
    if len(unread) > 1:
        record, first = unread[0]
        message = f"none of its {len(unread)} lines is an object with {need}; {record} {first.message}"
        unread = [(record, RecordFault(str(file), "the whole file", message))]
    yield from unread


def _some(file: Path, most: int | None) -> Iterator[tuple[str, Any]]:
    if most is None:
        return _each(file)
    every = list(_each(file))
    if len(every) <= most:
        return iter(every)
    return (every[number] for number in sorted(pick(words(most, "records", file.name), len(every))))


def _each(file: Path) -> Iterator[tuple[str, Any]]:
    """Lines as bytes, or the items of one JSON list."""
    with file.open("rb") as stream:
        first = stream.read(64).removeprefix(BOM).lstrip()
        if not first.startswith(b"["):
            stream.seek(0)
            for number, line in enumerate(stream, 1):
                text = line.removeprefix(BOM) if number == 1 else line
                if text.strip():
                    yield f"line {number}", text
            return
    for number, value in enumerate(read_json(file), 1):
        yield f"item {number}", value


def _value(line: bytes, need: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start}); save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg}, column {error.colno}); one whole object per line") from None
    except RecursionError:
        raise ValueError(f"is nested too deeply; it needs an object with {need}") from None


def size_of(record: dict[str, Any]) -> tuple[int, int] | None:
    """The (height, width) that a record states; None where it states neither. Raises ValueError on anything else."""
    height, width = record.get("height"), record.get("width")
    if height is None and width is None:
        return None
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        raise ValueError(f"has height {height!r} and width {width!r}; it needs two whole numbers of pixels")
    return height, width
