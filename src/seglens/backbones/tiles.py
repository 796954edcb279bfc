"""A canvas larger than a vision tower sees at once, shown in tiles, and the one grid that their image tokens make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Tiling:
    """Where the tokens of a canvas stand among those that stand for the image in a prompt.

    A canvas is one tile, or `across` columns and `down` rows (by default as many) of them, each of `cells` x `cells`
    image tokens. Tiles come one by one, row by row (InternVL); with `newlines` the rows of tokens run through all
    tiles, and a newline ends each (LLaVA-NeXT). With an `overview` the whole canvas is shown in the size of a tile too
    (InternVL's thumbnail, LLaVA-NeXT's base image): after the tiles, with `newlines` before them. `around` are the
    numbers of further tokens of the image that stand before and after all these (Molmo 2). Neither an overview, nor
    a newline, nor these are cells."""

    cells: int
    across: int = 1
    newlines: bool = False
    overview: bool = True
    down: int | None = None
    unpadded: tuple[int, int] | None = None  # rows and columns of cells left of all, in the middle (LLaVA)
    shrunk: tuple[int, int] | None = None  # to which these are scaled, where they are more than the family takes
    around: tuple[int, int] = (0, 0)

    @property
    def rows(self) -> int:
        """Of tiles."""
        return self.across if self.down is None else self.down

    @property
    def tiles(self) -> int:
        return self.rows * self.across

    @property
    def parts(self) -> int:
        """How many pictures of a tile's size the vision tower sees of a canvas."""
        return self.tiles + (self.overview and (self.tiles > 1 or self.newlines))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.shrunk or self.unpadded or (self.rows * self.cells, self.across * self.cells)

    @property
    def tokens(self) -> int:
        """How many tokens stand for the image."""
        if not self.newlines:
            return self.parts * self.cells**2
        height, width = self.grid
        return self.overview * self.cells**2 + height * (width + 1) + sum(self.around)

    @property
    def places(self) -> Int[Tensor, " i"]:
        """Of every cell of the grid in raster order, its place among these tokens."""
        height, width = self.grid
        if self.newlines:
            row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            first = self.tokens - self.around[1] - height * (width + 1)
            return (first + row * (width + 1) + column).flatten()
        order = torch.arange(height * width)
        return rearrange(order, "(y x r c) -> (y r x c)", y=self.rows, x=self.across, r=self.cells)

    def over(self, pixels: Float[Tensor, "*b 3 h w"], side: int) -> Tiling:
        """The same for canvases of another size, of tiles of `side` pixels."""
        return replace(self, down=pixels.shape[-2] // side, across=pixels.shape[-1] // side)

    def cut(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k 3 _ _"]:
        """The parts of canvases in the order in which they are shown; an overview is made as the families' own image
        processors do, by bicubic filtering."""
        tiles = rearrange(pixels, "b c (y h) (x w) -> b (y x) c h w", y=self.rows, x=self.across)
        if self.parts == self.tiles:
            return tiles
        size = tiles.shape[-2:]
        overview = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True).to(tiles)[:, None]
        return torch.cat([overview, tiles] if self.newlines else [tiles, overview], 1)

    def joined(self, parts: Float[Tensor, "k 3 _ _"]) -> Float[Tensor, "3 h w"]:
        """The canvas of its parts, without an overview."""
        tiles = parts[len(parts) - self.tiles :] if self.newlines else parts[: self.tiles]
        return rearrange(tiles, "(y x) c h w -> c (y h) (x w)", y=self.rows)

    def plane(self, rows: Float[Tensor, "bk f v"]) -> Float[Tensor, "b _ v"]:
        """The rows of patches tile by tile, without an overview, in raster order over the canvas."""
        side = round(rows.shape[1] ** 0.5)
        return rearrange(rows, "(b y x) (r c) v -> b (y r x c) v", y=self.rows, x=self.across, r=side)

    def packed(self, rows: Float[Tensor, "k i d"], newline: Float[Tensor, " d"]) -> Float[Tensor, "n d"]:
        """The rows of all parts as they stand for an image with newlines: those of the overview, then the others row by
        row over the canvas, without its padding (transformers' `pack_image_features`)."""
        plane = rearrange(self.plane(rows[1:])[0], "(h w) d -> d h w", h=self.rows * self.cells)
        if self.unpadded is not None:
            top, left = ((whole - kept) // 2 for whole, kept in zip(plane.shape[1:], self.unpadded, strict=True))
            plane = plane[:, top : plane.shape[1] - top, left : plane.shape[2] - left]
        if self.shrunk is not None:
            plane = F.interpolate(plane[None], self.shrunk, mode="bilinear")[0]
        ends = newline.to(plane)[:, None, None].expand(-1, plane.shape[1], 1)
        return torch.cat([rows[0], rearrange(torch.cat([plane, ends], 2), "d h w -> (h w) d")])


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
