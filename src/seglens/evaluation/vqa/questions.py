"""A benchmark's question as the rest of this package sees it, the places where its image may lie, and text files."""

from __future__ import annotations

import base64
import binascii
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from seglens.data.images import load_image

SHOWN = 200  # characters of a header that an error repeats


class BenchmarkError(ValueError):
    """Questions, images or answers that cannot be used: the file, the line or id, and what is wrong with it."""


@runtime_checkable
class ImageSource(Protocol):
    """An image that is decoded only when the model is asked about it."""

    def check(self) -> None:
        """Raises ValueError when the image is not there, without decoding a pixel."""

    def load(self) -> UInt8[np.ndarray, "h w 3"]:
        """RGB pixels. Raises ValueError when the image cannot be used."""


@dataclass(frozen=True)
class FileImage:
    """An image file."""

    path: Path

    def check(self) -> None:
        if not self.path.is_file():
            raise BenchmarkError(f"the image {str(self.path)!r} does not exist; put the benchmark's images there")

    def load(self) -> UInt8[np.ndarray, "h w 3"]:
        return load_image(self.path)


@dataclass(frozen=True)
class EncodedImage:
    """The base64 text of an image file, as the tables of VLMEvalKit hold it."""

    text: str = field(repr=False)

    def check(self) -> None:
        self._bytes()

    def load(self) -> UInt8[np.ndarray, "h w 3"]:
        return load_image(self._bytes())

    def _bytes(self) -> bytes:
        try:
            return base64.b64decode(self.text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BenchmarkError(
                f"its base64 image of {len(self.text)} characters is cut short or damaged ({error}); download it again"
            ) from error


@dataclass(frozen=True)
class BenchmarkQuestion:
    """One question, with what its scorer needs.

    `where` names its file and line for errors. `answer` is None where the benchmark keeps it secret, several strings
    where each is right. `choices` is letter -> text. Questions of one `group` are judged together (the two of an MME
    image, the rotations of an MMBench question). `category` lies inside `area`, the wider one."""

    id: str
    prompt: str
    where: str
    answer: str | tuple[str, ...] | None = None
    images: tuple[ImageSource, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    category: str = ""
    area: str = ""
    kind: str = ""
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)  # what a submission repeats

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """Its first image: the chat path takes one (VLMEvalKit's practice for models that take one)."""
        if not self.images:
            raise BenchmarkError(f"{self.where}: the question has no image; the model needs one")
        try:
            return self.images[0].load()
        except ValueError as error:
            raise BenchmarkError(f"{self.where}: {error}") from error

    def check(self) -> None:
        """Raises BenchmarkError when the question cannot be put to a model, without decoding its image."""
        if not self.prompt:
            raise BenchmarkError(f"{self.where}: an answer key has no questions to ask; it can only score --answers")
        if not self.images:
            raise BenchmarkError(f"{self.where}: the question has no image; the model needs one")
        try:
            self.images[0].check()
        except ValueError as error:
            raise BenchmarkError(f"{self.where}: {error}") from error


def distinct(questions: Sequence[BenchmarkQuestion], what: str) -> list[BenchmarkQuestion]:
    """The questions, if there are any and no two share an id."""
    if not questions:
        raise BenchmarkError(f"{what} holds no question; check --root")
    counts = Counter(question.id for question in questions)
    twice = next((question for question in reversed(questions) if counts[question.id] > 1), None)
    if twice is not None:
        raise BenchmarkError(f"{twice.where}: the id {twice.id!r} is taken already; each question needs its own")
    return list(questions)


def folder_near(file: Path, names: Sequence[str]) -> Path:
    """The first folder of these names that is there, beside the file or one or two folders above; else the first name
    beside it."""
    places = [above / name for above in list(file.absolute().parents)[:3] for name in names]
    return next((place for place in places if place.is_dir()), file.parent / names[0])


def only_file(root: str, patterns: Sequence[str], what: str) -> Path:
    """The file `root`, or of that folder and those in it the file that the first pattern with one finds."""
    path = Path(root)
    if not path.is_dir():
        return path
    for pattern in patterns:
        found = sorted(path.glob(f"**/{pattern}"))
        if len(found) == 1:
            return found[0]
        if found:
            raise BenchmarkError(
                f"{root} holds {len(found)} files {pattern}; name one with --root: {found[0]} is the first"
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
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise BenchmarkError(f"{path}: {twice!r} is there twice; keep one")
    return made


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
