"""A canvas larger than a vision tower sees at once, shown in tiles, and the one grid that their image tokens make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Tiling:
    """Where the tokens of a square canvas stand among those that stand for the image in a prompt.

    A canvas is one tile, or `across` x `across` of them, each of `cells` x `cells` image tokens. Tiles come one by one,
    row by row (InternVL); with `newlines` the rows of tokens run through all tiles, and a newline ends each
    (LLaVA-NeXT). With an `overview` the whole canvas is shown in the size of a tile too (InternVL's thumbnail,
    LLaVA-NeXT's base image): behind the tiles, with `newlines` before them. Neither it nor a newline is a cell."""

    cells: int
    across: int = 1
    newlines: bool = False
    overview: bool = True

    @property
    def parts(self) -> int:
        """How many pictures of a tile's size the vision tower sees of a canvas."""
        return self.across**2 + (self.across > 1 and self.overview)

    @property
    def tokens(self) -> int:
        """How many tokens stand for the image."""
        return self.parts * self.cells**2 + self.newlines * self.across * self.cells

    @property
    def places(self) -> Int[Tensor, " i"]:
        """Of every cell of the grid in raster order, its place among these tokens."""
        side = self.across * self.cells
        if self.newlines:
            row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
            return (self.tokens - side * (side + 1) + row * (side + 1) + column).flatten()
        return rearrange(torch.arange(side**2), "(y x r c) -> (y r x c)", y=self.across, x=self.across, r=self.cells)

    def cut(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b k 3 _ _"]:
        """The parts of canvases in the order in which they are shown; an overview is made as the families' own image
        processors do, by bicubic filtering."""
        tiles = rearrange(pixels, "b c (y h) (x w) -> b (y x) c h w", y=self.across, x=self.across)
        if self.parts == self.across**2:
            return tiles
        size = tiles.shape[-2:]
        overview = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True).to(tiles)[:, None]
        return torch.cat([overview, tiles] if self.newlines else [tiles, overview], 1)

    def plane(self, rows: Float[Tensor, "bk f v"]) -> Float[Tensor, "b _ v"]:
        """What was said of patches tile by tile, without an overview, in raster order over the canvas."""
        side = round(rows.shape[1] ** 0.5)
        return rearrange(rows, "(b y x) (r c) v -> b (y r x c) v", y=self.across, x=self.across, r=side)


def tiles_across(config: PreTrainedConfig, own: int, asked: int | None, known: Sequence[int]) -> int:
    """How many tiles of `own` pixels lie along a canvas of `asked` pixels; by default it is one tile.

    `known` are the numbers that the model was made for. Raises ValueError for a canvas that none of them gives."""
    sides = {own: 1} | {own * across: across for across in known}
    if asked in (None, *sides):
        return 1 if asked is None else sides[asked]
    larger = f" or, in tiles, at {' or '.join(str(own * across) for across in known)}" if known else ""
    raise ValueError(
        f"image_size={asked} cannot be had: a {config.model_type!r} model sees its images at {own} pixels{larger}; "
        f"{'choose one of them, or ' if known else ''}leave image_size out"
    )
