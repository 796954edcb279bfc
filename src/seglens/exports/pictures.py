"""One picture per query: the mask, lossless, and the overlay for the eye."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from PIL import Image

from seglens.exports.base import Files
from seglens.exports.page import Page, Title
from seglens.marks import marked_png


def mask_paths(title: Title) -> dict[str, str]:
    return {f"{name}_mask.png": query for name, query in zip(title.file_names(), title.queries, strict=True)}


def masks(page: Page) -> Files:
    """`NAME_mask.png` of 0 and 255 per query; where it means several things, `NAME-1_mask.png` and so on beside it,
    best first: no name of an image or a query has that hyphen."""
    content, about = dict[str, bytes](), dict[str, str]()
    names = page.file_names()
    for name, prediction in zip(names, page.predictions, strict=True):
        made = {f"{name}_mask.png": _black_and_white(prediction.mask)}
        for number, one in enumerate(prediction.instances, 1):
            made[f"{name}-{number}_mask.png"] = _black_and_white(one.mask)
        content |= made
        about |= dict.fromkeys(made, prediction.query)
    return Files(content, list(mask_paths(page.title)), about)


def overlay_paths(title: Title) -> dict[str, str]:
    return {f"{name}_overlay.png": query for name, query in zip(title.file_names(), title.queries, strict=True)}


def overlays(page: Page) -> Files:
    """`NAME_overlay.png` per query."""
    names = list(overlay_paths(page.title))
    made = zip(names, page.predictions, strict=True)
    return Files({name: marked_png(prediction.overlay()) for name, prediction in made}, names)


def _black_and_white(mask: Bool[np.ndarray, "h w"]) -> bytes:
    return marked_png(Image.fromarray(mask.astype(np.uint8) * 255))
