"""A benchmark's question as the rest of this package sees it, and the places where its image may be."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from seglens.data.images import load_image


class BenchmarkError(ValueError):
    """Questions, images or answers that cannot be used: the file, the line or id, and what is wrong with it."""


@runtime_checkable
class QuestionImage(Protocol):
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

    `where` is its file and line, for errors. `answer` is None where the benchmark keeps it secret, several strings
    where each is right. `choices` is letter -> text. Questions of one `group` are scored together (the two of an MME
    image, the rotations of an MMBench question). A `category` is a part of an `area`."""

    id: str
    prompt: str
    where: str
    answer: str | tuple[str, ...] | None = None
    images: tuple[QuestionImage, ...] = ()
    choices: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    category: str = ""
    area: str = ""
    kind: str = ""
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the fields that a submission repeats

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """Its first image: the chat path takes one (VLMEvalKit's practice for models that take one)."""
        if not self.images:
            raise BenchmarkError(f"{self.where}: the question has no image; the model needs one")
        try:
            return self.images[0].load()
        except ValueError as error:
            raise BenchmarkError(f"{self.where}: {error}") from error

    def check(self) -> None:
        """Raises BenchmarkError when a model cannot be asked the question; its image is not decoded."""
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
