"""All masks as files to download. They are part of the page: nothing is written to the server's disk, where another
visitor might find it, and the file names contain nothing that a visitor typed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from seglens.core.png_files import png_bytes
from seglens.exports import AnnotatedImage, to_coco
from seglens.exports.png import indexed
from seglens.inference.prediction import Prediction
from seglens.serving.web.layers import embed


@dataclass(frozen=True)
class Download:
    """A link: its text, the name under which the file is saved, and the file itself as an address."""

    text: str
    name: str
    address: str


def downloads(predictions: Sequence[Prediction]) -> list[Download]:
    """All masks as one and, where there are several things, a PNG that numbers them; all as COCO. Empty without a
    mask."""
    predictions = [one for one in predictions if one.things]
    if not predictions:
        return []
    image = AnnotatedImage("picture", predictions)
    files = [
        Download(
            "Mask (PNG)" if len(predictions) == 1 else "All masks as one (PNG)",
            "mask.png",
            embed("image/png", _black_and_white(predictions)),
        )
    ]
    if sum(len(one.things) for one in predictions) > 1:
        (numbered,) = indexed(image).content
        files.append(Download("Numbered things (PNG)", "instances.png", embed("image/png", numbered.data)))
    coco = json.dumps(to_coco([image]), ensure_ascii=False, allow_nan=False)
    return [
        *files,
        Download("COCO (JSON)", "coco.json", embed("application/json", coco.encode("utf-8", "backslashreplace"))),
    ]


def _black_and_white(predictions: Sequence[Prediction]) -> bytes:
    """The pixels of all masks as 255, the others as 0."""
    mask = np.logical_or.reduce([one.mask for one in predictions])
    return png_bytes(Image.fromarray(mask.astype(np.uint8) * 255))
