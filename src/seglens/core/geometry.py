"""The one map between an image, the square canvas that both encoders see, and the grids over that canvas.

Four kinds of coordinates, always (x, y):

* *image*: continuous pixels of the original image; pixel i covers [i, i + 1), so its centre is i + 0.5; * *canvas*: a
square, normalised to [0, 1]: a point does not depend on the size at which an encoder renders it. The image is on it as
a letterbox, scaled by its longest side and padded at the bottom and right as SAM does (arXiv 2304.02643), or squashed:
scaled to the square, each side by its own factor; * *cells*: a grid over the canvas, where integer i is the *centre* of
cell i, at canvas (i + 0.5) / W; * pixels of a rendered canvas are cells of a ``size`` x ``size`` grid."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from seglens.core.names import check_name

Lay = Literal["letterbox", "squash"]
MOST_TILES = 40  # InternVL was trained with up to as many
SAM_SIDE = 1024  # pixels of the square that LENS's authors give to both encoders


@dataclass(frozen=True)
class Frame:
    """Where an image of ``height`` x ``width`` pixels lies on the square canvas, and the way back.

    Raises ``ValueError`` on a side shorter than one pixel, and on an unknown ``lay``.
    """

    height: int
    width: int
    lay: Lay = "letterbox"

    def __post_init__(self) -> None:
        if self.lay not in get_args(Lay):
            check_name(self.lay, get_args(Lay), "way to lay a picture on the canvas")
        if min(self.height, self.width) < 1:
            raise ValueError(
                f"Frame got an image of {self.height} x {self.width} (height x width) pixels; "
                "it needs at least 1 x 1: check that the image is not empty"
            )

    @property
    def side(self) -> int:
        """The longest side of the image in pixels: the canvas along it."""
        return max(self.height, self.width)

    @property
    def extent(self) -> tuple[int, int]:
        """The canvas in image pixels, from the top to the bottom and from the left to the right."""
        return (self.height, self.width) if self.lay == "squash" else (self.side, self.side)

    def to_canvas(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Image pixels to canvas [0, 1]."""
        return points / points.new_tensor(self.extent[::-1])

    def to_image(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Canvas [0, 1] to image pixels; a point of the padding is outside the image."""
        return points * points.new_tensor(self.extent[::-1])

    @staticmethod
    def cells_to_canvas(points: Float[Tensor, "*n 2"], grid: tuple[int, int]) -> Float[Tensor, "*n 2"]:
        """Sub-pixel cells (x, y) of a ``grid`` of (rows, columns) to canvas [0, 1]."""
        return (points + 0.5) / points.new_tensor(grid[::-1])

    def content(self, size: int) -> tuple[int, int]:
        """Height and width, in pixels, of the image on a canvas rendered at ``size``: SAM's rounding, at least 1."""
        # floor(v + 1/2) in integers, free of the float error that would move a size by one.
        sides = zip((self.height, self.width), self.extent, strict=True)
        height, width = ((2 * side * size + whole) // (2 * whole) for side, whole in sides)
        return max(height, 1), max(width, 1)

    def render(
        self, image: UInt8[Tensor, "h w 3"], size: int, fill: tuple[float, float, float]
    ) -> Float[Tensor, "3 s s"]:
        """The canvas at ``size``: antialiased bilinear resize, top left, the rest ``fill`` (RGB, 0..255).

        Raises ``ValueError`` when the image is not of this frame's size.
        """
        self._check(image.shape[:2])
        height, width = self.content(size)
        pixels = image.permute(2, 0, 1)[None].float()  # 1 3 h w
        canvas = pixels.new_tensor(fill)[:, None, None].repeat(1, size, size)
        canvas[:, :height, :width] = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]
        return canvas

    def to_canvas_mask(self, mask: Bool[Tensor, "*n h w"], size: int | tuple[int, int]) -> Float[Tensor, "*n _ _"]:
        """Share, in [0, 1], of each canvas cell that the mask covers, on a grid of ``size`` cells a side or of (rows,
        columns); padding counts as uncovered.

        Raises ``ValueError`` when the mask is not of this frame's size.
        """
        self._check(mask.shape[-2:])
        grid = (size, size) if isinstance(size, int) else size
        # A cell is a rectangle, so its overlap with a pixel is the product of two 1-D overlaps: first down the columns,
        # where sums of whole rows read every pixel once, and then along the rows, of which few are left.
        down = torch.from_numpy(_covered(mask.cpu().numpy(), self.extent[0], grid[0]))  # *n r w
        across = rearrange(down, "... r w -> w (... r)").contiguous()
        shares = torch.sparse.mm(_overlap(self.width, self.extent[1], grid[1]), across)  # c (*n r)
        return shares.T.reshape(*down.shape[:-1], grid[1]).clamp(max=1).to(mask.device)

    def to_image_logits(self, logits: Float[Tensor, "n s s"], rows: slice = slice(None)) -> Float[Tensor, "n r w"]:
        """Canvas logits read at the centre of every image pixel (bilinear), without the padding; of some rows, the
        same numbers as of all.

        Half-precision logits come back in float32, where thresholds are compared.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        y, x = (
            (torch.arange(side, device=logits.device, dtype=logits.dtype) + 0.5) / whole * 2 - 1
            for side, whole in zip((self.height, self.width), self.extent, strict=True)
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


def _covered(mask: Bool[np.ndarray, "*n h w"], whole: int, size: int) -> Float[np.ndarray, "*n e w"]:
    """Share of each of ``size`` canvas cells that the pixels of a column cover, on an axis ``whole`` pixels long."""
    side = mask.shape[-2]
    edges = np.minimum(np.arange(size + 1) * whole / size, side)
    pixel = np.minimum(edges.astype(int), side - 1)
    rows = mask.view(np.uint8)
    blocks = [rows[..., top:end, :].sum(-2, dtype=np.uint32) for top, end in pairwise(pixel)]
    cut = (edges - pixel).astype(np.float32)[:, None] * rows[..., pixel, :]  # the parts of rows that an edge cuts
    covered = np.stack(blocks, -2, dtype=np.float32, casting="unsafe")
    covered += cut[..., 1:, :]
    covered -= cut[..., :-1, :]
    covered *= np.float32(size / whole)
    return covered


@lru_cache(maxsize=64)  # images of a training have few sizes
def _overlap(side: int, whole: int, size: int) -> Float[Tensor, "s e"]:
    """Share of each of ``size`` canvas cells, on an axis ``whole`` pixels long, that each of ``side`` pixels covers;
    sparse."""
    edges = torch.arange(size + 1).double() * whole / size
    pixels = torch.arange(side).double()
    shared = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (shared.clamp(min=0) * size / whole).float().to_sparse()


@dataclass(frozen=True)
class Canvas:
    """How pictures come to the MLLM's canvas. A head uses the canvas of its training, which its config holds.

    Raises ``ValueError`` on a value that is none of the names."""

    lay: Lay = "letterbox"  # squash: the authors of MLLMSeg, SELF1E, UFO
    # one antialiased bilinear step, unrounded; the filter of the model's own processor (bicubic for CLIP), by Pillow;
    # or that filter after SAM's step to a square of 1024 pixels (LENS's authors)
    resample: Literal["bilinear", "processor", "sam-processor"] = "bilinear"
    padding: Literal["mean", "black"] = "mean"  # the processor's mean colour, or black (LENS's authors)
    # in how many tiles at most a picture is shown, arranged by its shape; the processor cuts them as in its own chat,
    # and the picture fills the canvas, whatever the three above are. None: one square canvas for every picture
    tiles: int | None = None

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            if get_origin(hints[field.name]) is Literal:
                check_name(getattr(self, field.name), get_args(hints[field.name]), f"value of {field.name}")
        if self.tiles is not None and not (type(self.tiles) is int and 1 <= self.tiles <= MOST_TILES):
            raise ValueError(f"got tiles={self.tiles!r}; it must be a whole number from 1 to {MOST_TILES}")

    @property
    def name(self) -> str:
        """In a word; the default has the name that it had before there was a choice."""
        if self.tiles is not None:
            return f"tiles-{self.tiles}"
        return "pad-mean" if self == LETTERBOX else f"{self.lay}-{self.padding}-{self.resample}"

    def needed_side(self, size: int) -> int | None:
        """Pixels along each side of an image beyond which the canvas at ``size`` shows no more of it. None: all, where
        tiles are arranged by the image's size, or its pixels are those of the authors' own steps."""
        return size if self.tiles is None and self.resample == "bilinear" else None

    def frame(self, image: UInt8[np.ndarray, "h w 3"]) -> Frame:
        """Where an image lies on it."""
        height, width = image.shape[:2]
        return Frame(height, width, self.lay if self.tiles is None else "squash")

    def render(
        self, image: UInt8[np.ndarray, "h w 3"], size: int, mean: tuple[float, float, float], own: int | None
    ) -> Float[Tensor, "3 s s"]:
        """An image on the canvas at ``size``, 0..255; ``mean`` (RGB) is the processor's colour, ``own`` its filter as
        Pillow's number.

        Raises ``ValueError`` when that filter is asked for and the processor has none."""
        frame, fill = self.frame(image), mean if self.padding == "mean" else (0.0, 0.0, 0.0)
        if self.resample == "bilinear":
            return frame.render(torch.tensor(image), size, fill)
        if own is None:
            raise ValueError(
                f"resample={self.resample} needs a processor that names its filter; take resample=bilinear"
            )
        picture = Image.fromarray(image)
        if self.resample == "sam-processor":
            red, green, blue = map(int, fill)
            square = Image.new("RGB", (SAM_SIDE, SAM_SIDE), (red, green, blue))
            square.paste(_resized(picture, frame.content(SAM_SIDE), Image.Resampling.BILINEAR))
            return _pixels(_resized(square, (size, size), own))
        height, width = frame.content(size)
        canvas = torch.tensor(fill)[:, None, None].repeat(1, size, size)
        canvas[:, :height, :width] = _pixels(_resized(picture, (height, width), own))
        return canvas


LETTERBOX = Canvas()  # the default


def floor_targets(masks: Bool[np.ndarray, "q h w"], frame: Frame, size: int) -> UInt8[Tensor, "q s s"]:
    """Masks on a canvas of ``size`` cells as LENS's authors compute them: scaled bilinearly to their square of 1024
    pixels, where only pixels with the full value 255 count; each cell takes the value of its first pixel. 255 or 0."""
    first = torch.arange(size) * SAM_SIDE // size
    canvases = np.zeros((len(masks), SAM_SIDE, SAM_SIDE), bool)
    height, width = frame.content(SAM_SIDE)
    for mask, canvas in zip(masks, canvases, strict=True):
        whole = Image.fromarray(mask.astype(np.uint8) * 255)
        canvas[:height, :width] = np.asarray(_resized(whole, (height, width), Image.Resampling.BILINEAR)) == 255
    return 255 * torch.from_numpy(canvases)[:, first][:, :, first].to(torch.uint8)


def _resized(picture: Image.Image, size: tuple[int, int], by: int) -> Image.Image:
    height, width = size
    return picture.resize((width, height), Image.Resampling(by))


def _pixels(picture: Image.Image) -> Float[Tensor, "3 h w"]:
    return torch.tensor(np.asarray(picture)).permute(2, 0, 1).float()
