"""An indexed PNG per image: 0 is background, k is the k-th thing, as in VOC and DAVIS."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from seglens.core.mask_logits import bands
from seglens.core.png_files import marked_png
from seglens.exports.base import Files, OutputFile
from seglens.exports.page import AnnotatedImage, Title
from seglens.inference.prediction import Prediction

MOST = 255  # values of a palette beside the background


def to_png(predictions: Prediction | Iterable[Prediction]) -> Image.Image:
    """A palette image whose value k is the k-th thing of the predictions, for one image.

    A pixel holds one value: where things overlap, the smaller one is visible, so that a part stays on its whole.
    `info`, which is written into the PNG as text (`things`), lists for every value its query, its score, its area and
    how many of its pixels are visible ("seen"): where the two differ, another format holds the rest. Raises ValueError
    beyond 255 things."""
    each = [predictions] if isinstance(predictions, Prediction) else predictions
    values, things = _painted(each)
    visible = sum((np.bincount(row, minlength=MOST + 1) for row in values), np.zeros(MOST + 1, int))
    image = Image.fromarray(values)
    image.putpalette(_palette().tobytes())
    image.info["things"] = json.dumps([{**one, "seen": int(visible[one["value"]])} for one in things])
    return image


def _painted(predictions: Iterable[Prediction]) -> tuple[UInt8[np.ndarray, "h w"], list[dict[str, Any]]]:
    """The values of all pixels, and their meaning. One prediction after the other: none stays in memory."""
    values, things, areas = np.zeros((0, 0), np.uint8), list[dict[str, Any]](), np.full(MOST + 1, np.inf)
    for prediction in predictions:
        values = values if values.size else np.zeros(prediction.image.shape[:2], np.uint8)
        for one in prediction.things:
            if len(things) == MOST:
                raise ValueError(f"a palette has {MOST} values and the image more things; export it as coco")
            x0, y0, x1, y1 = one.box
            place, cut, area = values[y0:y1, x0:x1], one.cut, one.area
            for rows in bands(*cut.shape):
                place[rows][cut[rows] & (areas[place[rows]] > area)] = len(things) + 1
            areas[len(things) + 1] = area
            things.append(
                {"value": len(things) + 1, "query": prediction.query, "score": round(one.score, 4), "area": area}
            )
    return values, things


def indexed_paths(title: Title) -> dict[str, None]:
    return {f"{title.name}_indexed.png": None}


def indexed(page: AnnotatedImage) -> Files:
    """`NAME_indexed.png`."""
    image = to_png(page.predictions)
    (name,) = indexed_paths(page.title)
    return Files([OutputFile(name, marked_png(image, things=image.info["things"]))], [name] * len(page.predictions))


def _palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of PASCAL VOC: the bits of the value dealt out to red, green and blue, the highest first."""
    value = np.arange(256)[:, None]
    colours = np.zeros((256, 3), int)
    for place in range(8):
        colours |= (value >> 3 * place + np.arange(3) & 1) << 7 - place
    return colours.astype(np.uint8)
