"""All masks as files to take away. They travel inside the page: nothing lies on the server's disk, where another
visitor might find it, and their names hold nothing that anybody typed."""

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
    """A link: what it says, under which name the file is saved, and the file itself as an address."""

    says: str
    name: str
    address: str


def takeaway(predictions: Sequence[Prediction]) -> list[Download]:
    """All that was found as one mask and, where there are several things, a PNG that numbers them; all as COCO. Nothing
    without a mask."""
    predictions = [one for one in predictions if one.things]
    if not predictions:
        return []
    page = AnnotatedImage("picture", predictions)
    files = [
        Download(
            "Mask (PNG)" if len(predictions) == 1 else "All masks as one (PNG)",
            "mask.png",
            embed("image/png", _black_and_white(predictions)),
        )
    ]
    if sum(len(one.things) for one in predictions) > 1:
        (numbered,) = indexed(page).content
        files.append(Download("Numbered things (PNG)", "instances.png", embed("image/png", numbered.data)))
    book = json.dumps(to_coco([page]), ensure_ascii=False, allow_nan=False)
    return [
        *files,
        Download("COCO (JSON)", "coco.json", embed("application/json", book.encode("utf-8", "backslashreplace"))),
    ]


def _black_and_white(predictions: Sequence[Prediction]) -> bytes:
    """All that was found: 255, the rest 0."""
    found = np.logical_or.reduce([one.mask for one in predictions])
    return png_bytes(Image.fromarray(found.astype(np.uint8) * 255))
