"""The one map between an image, the square canvas that both encoders see, and the grids laid over that canvas.

Four kinds of coordinates, always (x, y):

* *image*: continuous pixels of the original image; pixel i covers [i, i + 1), so its centre is i + 0.5;
* *canvas*: the image scaled by its longest side and padded at the bottom and right to a square, as SAM does
  (arXiv 2304.02643), normalised to [0, 1]; the same point whatever size an encoder renders the canvas at;
* *cells*: a grid laid over the canvas, where integer i is the *centre* of cell i, at canvas (i + 0.5) / W;
* pixels of a rendered canvas are cells of a ``size`` x ``size`` grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """Where an image of ``height`` x ``width`` pixels lies on the square canvas, and the way back.

    Raises ``ValueError`` on a side shorter than one pixel.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(
                f"Frame got an image of {self.height} x {self.width} (height x width) pixels; "
                "it needs at least 1 x 1: check that the image is not empty"
            )

    @property
    def side(self) -> int:
        """Length of the canvas in image pixels: the longest side of the image."""
        return max(self.height, self.width)

    def to_canvas(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Image pixels to canvas [0, 1]."""
        return points / self.side

    def to_image(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Canvas [0, 1] to image pixels; a point of the padding lands outside the image."""
        return points * self.side

    @staticmethod
    def cells_to_canvas(points: Float[Tensor, "*n 2"], grid: tuple[int, int]) -> Float[Tensor, "*n 2"]:
        """Sub-pixel cells (x, y) of a ``grid`` of (rows, columns) to canvas [0, 1]."""
        return (points + 0.5) / points.new_tensor(grid[::-1])

    def content(self, size: int) -> tuple[int, int]:
        """Height and width, in pixels, of the image on a canvas rendered at ``size``: SAM's rounding, at least 1."""
        # floor(v + 1/2) in integers, free of the float error that would move a size by one.
        height, width = ((2 * extent * size + self.side) // (2 * self.side) for extent in (self.height, self.width))
        return max(height, 1), max(width, 1)

    def letterbox(
        self, image: UInt8[Tensor, "h w 3"], size: int, fill: tuple[float, float, float]
    ) -> Float[Tensor, "3 s s"]:
        """Render the canvas at ``size``: antialiased bilinear resize, top left, the rest ``fill`` (RGB, 0..255).

        Raises ``ValueError`` when the image is not of this frame's size.
        """
        self._check(image.shape[:2])
        height, width = self.content(size)
        pixels = image.permute(2, 0, 1)[None].float()  # 1 3 h w
        canvas = pixels.new_tensor(fill)[:, None, None].repeat(1, size, size)
        canvas[:, :height, :width] = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]
        return canvas

    def to_canvas_mask(self, mask: Bool[Tensor, "*n h w"], size: int) -> Float[Tensor, "*n s s"]:
        """Share, in [0, 1], of each canvas cell that the mask covers; padding counts as uncovered.

        Raises ``ValueError`` when the mask is not of this frame's size.
        """
        self._check(mask.shape[-2:])
        rows, columns = (self._overlap(extent, size, mask.device) for extent in (self.height, self.width))
        # A cell is a rectangle, so its overlap with a pixel is the product of two 1-D overlaps.
        return (rows @ (mask.float() @ columns.T)).clamp(max=1)

    def to_image_logits(self, logits: Float[Tensor, "n s s"], rows: slice = slice(None)) -> Float[Tensor, "n r w"]:
        """Canvas logits read at the centre of every image pixel (bilinear), without the padding; of some rows, the
        same numbers as of all.

        Half-precision logits come back in float32, where thresholds are compared.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        y, x = (
            (torch.arange(extent, device=logits.device, dtype=logits.dtype) + 0.5) / self.side * 2 - 1
            for extent in (self.height, self.width)
        )
        grid = torch.stack(torch.meshgrid(x, y[rows], indexing="xy"), -1)  # r w 2
        # Masks go as channels: one grid serves them all.
        return F.grid_sample(logits[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]

    def _check(self, shape: tuple[int, ...]) -> None:
        if tuple(shape) != (self.height, self.width):
            raise ValueError(
                f"Frame of {self.height} x {self.width} (height x width) pixels got an array of "
                f"{' x '.join(map(str, shape))}; it needs its own size: make a Frame of the array's own image"
            )

    def _overlap(self, extent: int, size: int, device: torch.device) -> Float[Tensor, "s e"]:
        """Share of each of ``size`` canvas cells, along one axis, that each of ``extent`` pixels covers."""
        edges = torch.arange(size + 1, device=device).double() * self.side / size
        pixels = torch.arange(extent, device=device).double()
        shared = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
        return (shared.clamp(min=0) * size / self.side).float()
