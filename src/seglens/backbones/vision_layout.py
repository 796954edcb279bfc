"""How a model sees the canvas: its size, the grid of its image tokens, and the patches that these are made of."""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from seglens.backbones.tiles import Tiling
from seglens.core.pixel_shuffle import pixel_shuffle, replicate, scan
from seglens.core.tuning_types import Refill


@dataclass(frozen=True)
class Layout:
    """How a model sees the square canvas: its side in pixels, the rows and columns of its image tokens, the width of
    its vision tower's patches, the first layer whose states hold all of the image, how many patches per side an image
    token is made of, how many tiles a side is cut into, whether newlines end their rows of tokens, and how many tokens
    of the image stand before and after these (`Tiling`); where some do, the family shows its own overview."""

    image_size: int
    grid: tuple[int, int]
    patch_width: int
    first_layer: int = 1
    shuffle: int = 1
    across: int = 1
    newlines: bool = False
    around: tuple[int, int] = (0, 0)

    @property
    def tiling(self) -> Tiling:
        overview = not any(self.around)
        return Tiling(self.grid[0] // self.across, self.across, self.newlines, overview, around=self.around)

    @property
    def tile(self) -> int:
        """Side of a tile in pixels."""
        return self.image_size // self.across


@dataclass(frozen=True)
class VisionOutput:
    """The output of a model's vision side for a canvas: rows in place of the tokens that stand for the image, in the
    order of the model's own prompts (of one tile: in raster order), and rows to be added to these after the first,
    second, ... decoder layer (Qwen3-VL's deepstack).

    `tower` are the states of the vision tower before its first layer and after each, where the family keeps them, of
    the overview where there is one; before the patches may stand that of a class token."""

    rows: Float[Tensor, "1 n d"]
    later: tuple[Float[Tensor, "1 i d"], ...] = ()
    tower: tuple[Float[Tensor, "1 _ v"], ...] = ()


@dataclass(frozen=True)
class Patches:
    """The output of the vision tower for canvases of one tile, in raster order, before patches are merged into image
    tokens; `later` and `tower` as in `VisionOutput`."""

    rows: Float[Tensor, "b f v"]
    later: tuple[Float[Tensor, "b i d"], ...] = ()
    tower: tuple[Float[Tensor, "b n v"], ...] = ()

    def merged(self, grid: tuple[int, int], shuffle: int) -> Float[Tensor, "b i sv"]:
        """Pixel-shuffle: the shuffle x shuffle patches of each image token side by side, row by row."""
        return rearrange(pixel_shuffle(self._map(grid, shuffle), shuffle), "b h w v -> b (h w) v")

    def refilled(self, grid: tuple[int, int], shuffle: int, by: Refill) -> Float[Tensor, "b f sv"]:
        """Every patch as wide as a merged one: from itself alone, or from the block whose first it is."""
        widen = {"replicate": replicate, "scan": scan}[by]
        return rearrange(widen(self._map(grid, shuffle), shuffle), "b h w v -> b (h w) v")

    def _map(self, grid: tuple[int, int], shuffle: int) -> Float[Tensor, "b _ _ v"]:
        return rearrange(self.rows, "b (h w) v -> b h w v", h=grid[0] * shuffle)
