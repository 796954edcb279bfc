"""An indexed PNG per image: 0 is background, k is the k-th thing, as VOC and DAVIS keep their objects."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from seglens.exports.base import Files
from seglens.exports.page import Page, Title, listed, things_of
from seglens.marks import marked_png
from seglens.prediction import Prediction

MOST = 255  # values of a palette beside the background


def to_png(predictions: Prediction | Iterable[Prediction]) -> Image.Image:
    """A palette image whose value k is the k-th thing of the predictions, for one image.

    A pixel holds one value: where things overlap the smaller one is seen, so that a part stays on its whole. `info`,
    which is written into the PNG as text (`things`), says of every value its query, its score, its area and how many of
    its pixels are seen: where the two differ, another format holds the rest. Raises ValueError beyond 255 things."""
    each = listed(predictions)
    things = things_of(each)
    if len(things) > MOST:
        raise ValueError(f"a palette has {MOST} values and the image {len(things)} things; export it as coco")
    areas = [int(one.instance.mask.sum()) for one in things]
    values = np.zeros(each[0].image.shape[:2], np.uint8)
    for k in np.argsort(areas, kind="stable")[::-1].tolist():
        values[things[k].instance.mask] = k + 1
    seen = np.bincount(values.ravel(), minlength=len(things) + 1)[1:].tolist()
    image = Image.fromarray(values)
    image.putpalette(_palette().tobytes())
    image.info["things"] = json.dumps(
        [
            {
                "value": k + 1,
                "query": one.query,
                "score": round(one.instance.score, 4),
                "area": areas[k],
                "seen": seen[k],
            }
            for k, one in enumerate(things)
        ]
    )
    return image


def indexed_paths(title: Title) -> dict[str, None]:
    return {f"{title.name}_indexed.png": None}


def indexed(page: Page) -> Files:
    """`NAME_indexed.png`."""
    image = to_png(page.predictions)
    (name,) = indexed_paths(page.title)
    return Files({name: marked_png(image, things=image.info["things"])}, [name] * len(page.predictions))


def _palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of PASCAL VOC: the bits of the value dealt out to red, green and blue, the highest first."""
    value = np.arange(256)[:, None]
    colours = np.zeros((256, 3), int)
    for place in range(8):
        colours |= (value >> 3 * place + np.arange(3) & 1) << 7 - place
    return colours.astype(np.uint8)
