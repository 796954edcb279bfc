"""Bilinear stretching, pixel by pixel."""

from __future__ import annotations

import numpy as np


def slow_bilinear(features: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixel centres at i + 1/2, the border repeated."""
    h, w = features.shape[:2]
    out = np.full((*size, *features.shape[2:]), np.nan)
    for y, x in np.ndindex(*size):
        v = min(max((y + 0.5) * h / size[0] - 0.5, 0), h - 1)
        u = min(max((x + 0.5) * w / size[1] - 0.5, 0), w - 1)
        top, left = int(v), int(u)
        low, right = min(top + 1, h - 1), min(left + 1, w - 1)
        above = features[top, left] * (left + 1 - u) + features[top, right] * (u - left)
        below = features[low, left] * (left + 1 - u) + features[low, right] * (u - left)
        out[y, x] = above * (top + 1 - v) + below * (v - top)
    return out
