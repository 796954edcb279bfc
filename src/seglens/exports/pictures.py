"""One picture per query: the mask, lossless, and the overlay for the eye."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from PIL import Image

from seglens.exports.base import Files
from seglens.exports.page import Page
from seglens.marks import marked_png


def masks(page: Page) -> Files:
    """`NAME_mask.png` of 0 and 255 per query; where it means several things, `NAME_1_mask.png` and so on beside it,
    best first."""
    content = {}
    names = page.file_names()
    for name, prediction in zip(names, page.predictions, strict=True):
        content[f"{name}_mask.png"] = _black_and_white(prediction.mask)
        for number, one in enumerate(prediction.instances, 1):
            content[f"{name}_{number}_mask.png"] = _black_and_white(one.mask)
    return Files(content, [f"{name}_mask.png" for name in names])


def overlays(page: Page) -> Files:
    """`NAME_overlay.png` per query."""
    names = [f"{name}_overlay.png" for name in page.file_names()]
    made = zip(names, page.predictions, strict=True)
    return Files({name: marked_png(prediction.overlay()) for name, prediction in made}, names)


def _black_and_white(mask: Bool[np.ndarray, "h w"]) -> bytes:
    return marked_png(Image.fromarray(mask.astype(np.uint8) * 255))
