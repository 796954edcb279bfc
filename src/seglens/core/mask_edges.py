"""The edge of a mask as pixels. (As polygons: `seglens.exports.outline`.)"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool


def edge_pixels(mask: Bool[np.ndarray, "h w"], width: int = 1, border: bool = True) -> Bool[np.ndarray, "h w"]:
    """Pixels of the mask within `width` steps (to the four sides) of a pixel outside it; the image's border is an edge
    too, unless `border` is false."""
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1, constant_values=not border)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
