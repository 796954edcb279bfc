"""A canvas larger than a vision tower sees at once, shown in tiles, and the one grid that their image tokens make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas


@dataclass(frozen=True)
class Tiling:
    """Where the tokens of a canvas stand among those that stand for the image in a prompt.

    A canvas is one tile, or `across` columns and `down` rows (by default as many) of them, each of `cells` x `cells`
    image tokens. Tiles come one by one, row by row (InternVL); with `newlines` the rows of tokens run through all
    tiles, and a newline ends each (LLaVA-NeXT). With an `overview` the whole canvas is shown in the size of a tile too
    (InternVL's thumbnail, LLaVA-NeXT's base image): after the tiles, with `newlines` before them. Neither it nor a
    newline is a cell."""

    cells: int
    across: int = 1
    newlines: bool = False
    overview: bool = True
    down: int | None = None

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
        return self.tiles + (self.tiles > 1 and self.overview)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.rows * self.cells, self.across * self.cells

    @property
    def tokens(self) -> int:
        """How many tokens stand for the image."""
        return self.parts * self.cells**2 + self.newlines * self.grid[0]

    @property
    def places(self) -> Int[Tensor, " i"]:
        """Of every cell of the grid in raster order, its place among these tokens."""
        height, width = self.grid
        if self.newlines:
            row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            return (self.tokens - height * (width + 1) + row * (width + 1) + column).flatten()
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


# ---------------------------------------------------------------- tiles arranged by a picture's shape


@runtime_checkable
class Tiler(Protocol):
    """How a family arranges the tiles of a picture by its shape, in chat and in reading alike."""

    newlines: ClassVar[bool]  # of its `Tiling`

    def arrange(self, config: PreTrainedConfig, height: int, width: int, most: int) -> Tiling:
        """Of a picture of this size, in at most so many tiles besides the overview."""

    def cut(self, processor: Any, image: UInt8[np.ndarray, "h w 3"], most: int) -> Float[Tensor, "k 3 s s"]:
        """The parts of a picture, by the family's own image processor."""


@dataclass(frozen=True)
class ClosestShape:
    """InternVL's rule: of all arrangements of up to `most` tiles that whose shape is closest to the picture's, which is
    scaled to fill it; of equal shapes a larger one only for a picture of more than half its area. A thumbnail follows
    the tiles where there are several."""

    newlines: ClassVar[bool] = False

    def arrange(self, config: PreTrainedConfig, height: int, width: int, most: int) -> Tiling:
        vision = config.vision_config
        cells = int(vision.image_size[0] // vision.patch_size[0] * config.downsample_ratio)
        columns, rows = get_optimal_tiled_canvas((height, width), tuple(vision.image_size), 1, most)
        return Tiling(cells, columns, down=rows)

    def cut(self, processor: Any, image: UInt8[np.ndarray, "h w 3"], most: int) -> Float[Tensor, "k 3 s s"]:
        images = processor.image_processor
        made = images(
            Image.fromarray(image), crop_to_patches=True, min_patches=1, max_patches=most, return_tensors="pt"
        )
        return made["pixel_values"]


def check_tiler(config: PreTrainedConfig, tiler: Tiler | None, across: int, tiles: int | None) -> None:
    """Raises ValueError where pictures cannot be shown in tiles arranged by their shape."""
    if tiles is None:
        return
    if tiler is None:
        raise ValueError(
            f"tiles={tiles} cannot be had: a {config.model_type!r} model sees its pictures in one piece; leave it out"
        )
    if across > 1:
        raise ValueError(
            f"got tiles={tiles}, arranged by a picture's shape, with an image_size of {across} x {across} tiles for "
            "every picture; leave one of them out"
        )
