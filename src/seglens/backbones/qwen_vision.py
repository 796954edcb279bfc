"""Vision towers of the Qwen kind: any canvas of whole cells, cut into patches that are merged cell by cell."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

CELLS = 24  # a side by default: as many image tokens as LLaVA-1.5 has


def square(vision: Any, image_size: int | None) -> tuple[int, tuple[int, int]]:
    """Side and grid of a canvas of `image_size` pixels, by default of 24 x 24 cells.

    Raises ValueError when that is no whole number of cells."""
    cell = vision.patch_size * vision.spatial_merge_size
    side = CELLS * cell if image_size is None else image_size
    if side < cell or side % cell:
        nearest = max(1, round(side / cell)) * cell
        raise ValueError(
            f"image_size={side} is no whole number of cells of {cell} pixels; try {nearest}, "
            f"or leave it out for {CELLS * cell}"
        )
    return side, (side // cell, side // cell)


def cut(pixels: Float[Tensor, "b 3 s s"], vision: Any) -> Float[Tensor, "n c"]:
    """Canvases as the tower takes them: a row per patch, cell by cell; a still image fills every frame."""
    size, merge = vision.patch_size, vision.spatial_merge_size
    return repeat(
        pixels,
        "b c (y my py) (x mx px) -> (b y x my mx) (c t py px)",
        my=merge,
        mx=merge,
        py=size,
        px=size,
        t=vision.temporal_patch_size,
    )


def raster(rows: Float[Tensor, "n v"], grid: tuple[int, int], merge: int) -> Float[Tensor, "b f v"]:
    """What the tower says of patches cell by cell, in raster order."""
    return rearrange(rows, "(b y x my mx) v -> b (y my x mx) v", y=grid[0], x=grid[1], my=merge, mx=merge)


def counts(grid: tuple[int, int], vision: Any) -> Int[Tensor, "1 3"]:
    """Frames, rows and columns of patches, before they are merged."""
    merge = vision.spatial_merge_size
    return torch.tensor([[1, grid[0] * merge, grid[1] * merge]])
