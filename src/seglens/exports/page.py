"""An image with what was found in it: what every format is made from."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from seglens.prediction import Instance, Prediction, slug

IMAGES = "images"  # the folder of pictures that are in no file
LONGEST = 120  # bytes of a name; file systems take 255, and queries and endings come behind it


@dataclass(frozen=True, eq=False)
class Page:
    """The predictions for one image, one per query.

    `name` begins the names of its files. `file` is where the image itself lies, from the folder that all images of a
    dataset have in common; None for a picture that is in no file, as a frame of a video: formats that point at images
    then write it."""

    name: str
    predictions: Sequence[Prediction]
    file: str | None = None

    def __post_init__(self) -> None:
        if not self.predictions:
            raise ValueError(f"the page {self.name!r} has no prediction; it needs one per query, found or not")

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        return self.predictions[0].image

    def file_names(self) -> list[str]:
        """The beginning of a file name for every query; all numbered when two would share one."""
        names = [f"{file_name(self.name)}_{slug(one.query)}" for one in self.predictions]
        return names if len(set(names)) == len(names) else [f"{name}_{number}" for number, name in enumerate(names)]


@dataclass(frozen=True, eq=False)
class Thing:
    """What other tools take as one object."""

    query: str
    instance: Instance


def things_of(predictions: Prediction | Iterable[Prediction]) -> list[Thing]:
    """The instances of every prediction, or else its mask, in order; nothing for what was not found."""
    return [Thing(one.query, instance) for one in listed(predictions) for instance in one.things]


def listed(predictions: Prediction | Iterable[Prediction]) -> list[Prediction]:
    return [predictions] if isinstance(predictions, Prediction) else list(predictions)


def file_name(text: str) -> str:
    """Letters and digits of any script, and never a path. Too long, its end is kept: that is where numbers stand."""
    kept = re.sub(r"[\W_]+", "_", text.lower()).strip("_").encode()
    return kept[-LONGEST:].decode(errors="ignore").strip("_") or "image"


def missing_picture(page: Page) -> dict[str, bytes]:
    """The image, under `images/`, for formats that point at it; nothing where it lies in a file already."""
    return {} if page.file else {f"{IMAGES}/{page.name}.png": picture(page.image)}


def picture(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The image as a PNG file: lossless, and packed quickly rather than tightly."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
