"""One picture per query: the mask, lossless, and the overlay to look at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool
from PIL import Image

from seglens.core.png_files import marked_png
from seglens.exports.base import Files, OutputFile
from seglens.exports.page import AnnotatedImage, Title


def mask_paths(title: Title) -> dict[str, str]:
    return {f"{name}_mask.png": query for name, query in zip(title.file_names(), title.queries, strict=True)}


def masks(page: AnnotatedImage) -> Files:
    """`NAME_mask.png` of 0 and 255 per query; where it means several things, `NAME-1_mask.png` and so on with it,
    best first: no name of an image or a query has that hyphen."""
    return Files(_masks(page), list(mask_paths(page.title)))


def _masks(page: AnnotatedImage) -> Iterator[OutputFile]:
    for name, prediction in zip(page.file_names(), page.predictions, strict=True):
        yield OutputFile(f"{name}_mask.png", _black_and_white(prediction.mask), prediction.query)
        for number, one in enumerate(prediction.instances, 1):
            yield OutputFile(f"{name}-{number}_mask.png", _black_and_white(one.mask), prediction.query)


def overlay_paths(title: Title) -> dict[str, str]:
    return {f"{name}_overlay.png": query for name, query in zip(title.file_names(), title.queries, strict=True)}


def overlays(page: AnnotatedImage) -> Files:
    """`NAME_overlay.png` per query."""
    names = list(overlay_paths(page.title))
    named = zip(names, page.predictions, strict=True)
    return Files((OutputFile(name, marked_png(prediction.overlay())) for name, prediction in named), names)


def _black_and_white(mask: Bool[np.ndarray, "h w"]) -> bytes:
    return marked_png(Image.fromarray(mask.astype(np.uint8) * 255))
