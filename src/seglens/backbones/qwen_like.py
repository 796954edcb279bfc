"""What models of the Qwen-VL kind share: a vision tower for any canvas of whole cells, cut into patches that are merged
cell by cell, and M-RoPE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from seglens.backbones.family import Family
from seglens.backbones.positions import in_space, of_chat
from seglens.backbones.tiles import Tiling

CELLS = 24  # a side by default: as many image tokens as LLaVA-1.5 has


class QwenLike(Family):
    """An abstract family: what it fills in is the same for all of them."""

    @staticmethod
    def image_text(processor: Any) -> str:
        return processor.image_token

    def image_features(self, pixels: Float[Tensor, "b 3 s s"]) -> Any:
        """The features of canvases: `last_hidden_state` of the tower, a row per patch of all of them, and
        `pooler_output` after the merger, one tensor of "i d" per canvas."""
        return self.model.get_image_features(cut(pixels, self.model.config.vision_config), self.patch_counts(pixels))

    def patch_counts(self, pixels: Float[Tensor, "b 3 s s"]) -> Int[Tensor, "b 3"]:
        """Frames, rows and columns of the patches of each canvas, before they are merged."""
        merge = self.model.config.vision_config.spatial_merge_size
        rows, columns = (side * merge for side in self.layout.grid)
        return torch.tensor([[1, rows, columns]], device=pixels.device).expand(len(pixels), -1)

    def project(self, merged: Float[Tensor, "b i sv"]) -> Float[Tensor, "b i d"]:
        rows = rearrange(merged, "b i (s v) -> (b i s) v", v=self.layout.patch_width)
        return rearrange(self.model.model.visual.merger(rows), "(b i) d -> b i d", b=len(merged))

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        return list(self.model.model.visual.blocks)

    def prefix_positions(self, before: int, tiling: Tiling) -> Int[Tensor, "p 3"]:
        return in_space(before, tiling.grid)

    def chat_positions(self, inputs: Mapping[str, Tensor]) -> Int[Tensor, "1 n 3"]:
        return of_chat(self.model, inputs)


def square(vision: Any, image_size: int | None) -> tuple[int, tuple[int, int]]:
    """As `whole_cells`, by default of 24 x 24."""
    return whole_cells(vision.patch_size * vision.spatial_merge_size, image_size, CELLS)


def whole_cells(cell: int, image_size: int | None, default: int) -> tuple[int, tuple[int, int]]:
    """Side and grid of a canvas of `image_size` pixels, by default of `default` cells a side.

    Raises ValueError when that is no whole number of cells."""
    side = default * cell if image_size is None else image_size
    if side < cell or side % cell:
        nearest = max(1, round(side / cell)) * cell
        raise ValueError(
            f"image_size={side} is no whole number of cells of {cell} pixels; try {nearest}, "
            f"or leave it out for {default * cell}"
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
    """Rows that the tower gave cell by cell, in raster order."""
    return rearrange(rows, "(b y x my mx) v -> b (y my x mx) v", y=grid[0], x=grid[1], my=merge, mx=merge)
