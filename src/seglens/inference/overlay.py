"""A prediction drawn over its image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from seglens.core.mask_edges import edge_pixels
from seglens.core.mask_logits import bands

MASK_COLOUR, HEAT_COLOUR = (255, 64, 96), (255, 200, 40)
INSIDE, OUTSIDE = (255, 255, 255), (230, 30, 30)  # keypoints on and off the target, as in the paper's Figure 3


def draw_overlay(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    heat: Callable[[slice], Float[np.ndarray, "r w"]] | None,
    keypoints: Float[np.ndarray, "n 2"],
    on_target: Bool[np.ndarray, " n"],
) -> Image.Image:
    """The image with the mask, its outline and the keypoints; `heat` gives rows of a map in [0, 1] to draw below."""
    pixels, edge = image.copy(), edge_pixels(mask)
    for rows in bands(*image.shape[:2]):
        picture = pixels[rows].astype(np.float32)
        if heat is not None:
            warm = heat(rows)[..., None]
            picture = picture * (1 - 0.55 * warm) + np.array(HEAT_COLOUR, np.float32) * 0.55 * warm
        mixed = 0.6 * picture + 0.4 * np.array(MASK_COLOUR, np.float32)
        pixels[rows] = np.where(mask[rows, :, None], mixed, picture).clip(0, 255).astype(np.uint8)
    pixels[edge] = MASK_COLOUR
    return _with_points(Image.fromarray(pixels), keypoints, on_target)


def _with_points(
    picture: Image.Image, keypoints: Float[np.ndarray, "n 2"], on_target: Bool[np.ndarray, " n"]
) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    r = max(2.0, max(picture.size) / 110)
    for (x, y), inside in zip(keypoints, on_target, strict=True):
        draw.ellipse([x - r, y - r, x + r, y + r], fill=INSIDE if inside else OUTSIDE, outline=(20, 20, 20))
    return picture
