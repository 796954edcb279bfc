"""Whole pictures for processors that crop: LLaVA-1.5's CLIP shows its model the middle of a wide or tall picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

PROBE = (16, 64)  # height and width of a long picture, of which a processor that crops shows the middle
LONGEST = 4096  # pixels a side of a square: a longer strip is reduced first, or its square would fill the memory


def crops(images: Any) -> bool:
    """Whether an image processor cuts the ends off a long picture: what is drawn there then changes nothing.

    Measured with the processor itself, because its settings do not state it: LLaVA-NeXT's name a crop that cuts off
    nothing."""
    plain = np.full((*PROBE, 3), 128, np.uint8)
    marked = plain.copy()
    marked[:, :4], marked[:, -4:] = 0, 255
    pixels, changed = (images(Image.fromarray(one), return_tensors="np")["pixel_values"] for one in (plain, marked))
    return np.array_equal(pixels, changed)


def squared(image: UInt8[np.ndarray, "h w 3"], images: Any) -> UInt8[np.ndarray, "s s 3"]:
    """The picture in the middle of a square of the processor's mean colour: none of it is cropped.

    That is LLaVA-1.5's `image_aspect_ratio: pad` (arXiv 2310.03744), its colour rounded down as there. The square is
    longer than the picture where the processor scales to more than it keeps."""
    image = _reduced(image)
    height, width = image.shape[:2]
    longest = max(height, width)
    side = max(longest, -(-longest * _scaled(images) // _kept(images)))
    if (height, width) == (side, side):
        return image
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = [int(255 * share) for share in images.image_mean]
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas


def _reduced(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= LONGEST:
        return image
    size = tuple(max(1, round(extent * LONGEST / longest)) for extent in (width, height))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _scaled(images: Any) -> int:
    """Pixels to which a square is scaled before it is cropped."""
    size = images.size
    return min(extent for extent in (size.shortest_edge, size.height, size.width) if extent)


def _kept(images: Any) -> int:
    """Pixels of its sides that are kept."""
    return min(images.crop_size.height, images.crop_size.width)
