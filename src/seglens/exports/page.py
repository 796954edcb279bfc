"""An image with its predictions: the input of every format."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from seglens.core.file_names import letters, slug
from seglens.core.png_files import marked_png
from seglens.core.schema import Answer, InstanceAnswer
from seglens.data.masks import decode_rle
from seglens.inference.compressed_predictions import bare
from seglens.inference.instance import Instance
from seglens.inference.prediction import Prediction

IMAGES = "images"  # the folder for pictures that are in no file
LONGEST = 120  # bytes of a name; file systems take 255, and queries and endings follow it


@dataclass(frozen=True)
class Title:
    """The names for the files about an image, known before its predictions.

    `file` is the path of the image itself, from the common folder of all images of a dataset; None for a picture that
    is in no file, as a frame of a video: formats that refer to images then write it."""

    name: str
    queries: tuple[str, ...]
    file: str | None = None

    def file_names(self) -> list[str]:
        """The beginning of a file name for every query; all numbered when two would share one."""
        names = [f"{file_name(self.name)}_{slug(query)}" for query in self.queries]
        return (
            names
            if len(set(map(alike, names))) == len(names)
            else [f"{name}_{number}" for number, name in enumerate(names)]
        )


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """The predictions for one image, one per query; `name` and `file` as in `Title`.

    `key` identifies the image, and `stamp` its state, for an export that continues an earlier one."""

    name: str
    predictions: Sequence[Prediction]
    file: str | None = None
    key: str = ""
    stamp: str = ""

    def __post_init__(self) -> None:
        if not self.predictions:
            raise ValueError(f"the page {self.name!r} has no prediction; it needs one per query, found or not")

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        return bare(self.predictions)[0].image

    @property
    def title(self) -> Title:
        return Title(self.name, tuple(one.query for one in bare(self.predictions)), self.file)

    def file_names(self) -> list[str]:
        """As those of its title."""
        return self.title.file_names()

    def summary(self) -> PageSummary:
        """The page without its pixels."""
        height, width = self.image.shape[:2]
        return PageSummary(self.name, width, height, [one.answer() for one in self.predictions], self.file)


@dataclass(frozen=True)
class PageSummary:
    """What the files of a whole run need of a page."""

    name: str
    width: int
    height: int
    answers: list[Answer]
    file: str | None = None

    @property
    def items(self) -> list[ExportedInstance]:
        """The objects for other tools, in order; none where nothing was found."""
        return [
            ExportedInstance(answer.query, one) for answer in self.answers for one in answer.instances or _whole(answer)
        ]


@dataclass(frozen=True)
class ExportedInstance:
    """One thing of an answer, with its query."""

    query: str
    instance: InstanceAnswer

    def mask(self) -> Bool[np.ndarray, "h w"]:
        return decode_rle(self.instance.segmentation.model_dump())


def _whole(answer: Answer) -> list[InstanceAnswer]:
    """The mask of an answer without instances, as one; none where nothing was found."""
    if answer.score is None or answer.box is None:
        return []
    return [InstanceAnswer(score=answer.score, box=answer.box, area=answer.area, segmentation=answer.segmentation)]


@dataclass(frozen=True, eq=False)
class ExportedObject:
    """One object for other tools."""

    query: str
    instance: Instance


def things_of(predictions: Prediction | Iterable[Prediction]) -> Iterator[ExportedObject]:
    """The instances of every prediction, or else its mask, in order; none where nothing was found."""
    each = [predictions] if isinstance(predictions, Prediction) else predictions
    return (ExportedObject(one.query, instance) for one in each for instance in one.things)


def file_name(text: str) -> str:
    """Letters and digits of any script, and never a path. Of a text that is too long the end stays, with its
    numbers."""
    return letters(text).encode()[-LONGEST:].decode(errors="ignore").strip("_") or "image"


def alike(name: str) -> str:
    """Equal for two names that a file system may treat as one: it may ignore case, or the form of a letter."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def missing_place(title: Title) -> dict[str, None]:
    """Where the image is written, under `images/`, for formats that refer to it; nowhere if it is in a file."""
    return {} if title.file else {f"{IMAGES}/{title.name}.png": None}


def picture(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The image as a PNG file: lossless, and packed quickly rather than tightly."""
    return marked_png(Image.fromarray(image), "copy", compress_level=1)
