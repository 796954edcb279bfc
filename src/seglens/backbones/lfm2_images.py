"""The image processor of LFM2-VL without torchvision, which that of transformers needs for resizing alone.

PyTorch resizes here as torchvision makes it: all numbers are those of transformers' `Lfm2VlImageProcessor`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import PILImageResampling, make_flat_list_of_images
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

FILTERS = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}
ROWS = ("image_rows", "image_cols", "image_sizes")  # from which the processor writes the image's text


@dataclass(frozen=True)
class Lfm2Images:
    """A picture of at most `max_image_tokens`, or one that is little larger, is shown whole; another one is cut into
    square tiles, with a thumbnail behind them. Patches come row by row, padded to one number of them."""

    image_mean: Sequence[float] = (0.5, 0.5, 0.5)
    image_std: Sequence[float] = (0.5, 0.5, 0.5)
    resample: int = PILImageResampling.BILINEAR
    rescale_factor: float = 1 / 255
    downsample_factor: int = 2
    do_image_splitting: bool = True
    min_tiles: int = 2
    max_tiles: int = 10
    use_thumbnail: bool = True
    min_image_tokens: int = 64
    max_image_tokens: int = 256
    encoder_patch_size: int = 16
    tile_size: int = 512
    max_pixels_tolerance: float = 2.0

    @classmethod
    def from_pretrained(cls, name: str | Path, **where: Any) -> Lfm2Images:
        """From the files of a model. Raises ValueError for a resampling filter that PyTorch does not have."""
        given, _ = ImageProcessingMixin.get_image_processor_dict(name, **where)
        images = cls(**{field.name: given[field.name] for field in fields(cls) if field.name in given})
        if images.resample not in FILTERS:
            raise ValueError(f"got resample={images.resample} for images of LFM2-VL; it must be 2 or 3, as published")
        return images

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "image_processor_type": type(self).__name__}

    def fetch_images(self, images: Any) -> Any:
        """The processor's own call for pictures that may be addresses: here they are pictures."""
        return images

    def __call__(
        self, images: Any, return_tensors: str | None = None, return_row_col_info: bool = False, **_: Any
    ) -> BatchFeature:
        """Of pictures, PIL's or arrays: patches, masks and grids of all their parts, and on request the rows, columns
        and the size in pixels of each picture, as the processor writes them into the text."""
        shown = [self._parts(_bytes(image)) for image in make_flat_list_of_images(images)]
        parts = [part for picture in shown for part in picture.parts]
        patches = [rearrange(part, "c (h y) (w x) -> (h w) (y x c)", y=self._patch, x=self._patch) for part in parts]
        # a strip, one cell high, may have more patches than are allowed
        most = max(self.max_image_tokens * self.downsample_factor**2, self._tile_patches, *map(len, patches))
        data: dict[str, Any] = {
            "pixel_values": torch.stack([F.pad(rows, (0, 0, 0, most - len(rows))) for rows in patches]),
            "pixel_attention_mask": torch.stack([(torch.arange(most) < len(rows)).int() for rows in patches]),
            "spatial_shapes": torch.tensor([[side // self._patch for side in part.shape[1:]] for part in parts]),
        }
        if return_row_col_info:
            rows = zip(*((picture.rows, picture.columns, picture.size) for picture in shown), strict=True)
            data |= dict(zip(ROWS, map(list, rows), strict=True))
        return BatchFeature(data, tensor_type=return_tensors)

    # ---------------------------------------------------------------- one picture

    def _parts(self, image: UInt8[np.ndarray, "h w 3"]) -> _Shown:
        pixels, size = torch.tensor(image).permute(2, 0, 1).contiguous(), self._whole_size(*image.shape[:2])
        rows, columns = self._arrangement(*image.shape[:2])
        if rows * columns == 1:
            return _Shown(1, 1, size, (self._resized(pixels, size),))
        tiled = self._resized(pixels, (rows * self.tile_size, columns * self.tile_size))
        tiles = list(rearrange(tiled, "c (r h) (k w) -> (r k) c h w", r=rows, k=columns))
        thumbnail = [self._resized(pixels, size)] if self.use_thumbnail else []
        return _Shown(rows, columns, size, (*tiles, *thumbnail))

    def _arrangement(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tiles."""
        cell, most = self._cell, self.max_image_tokens * self._cell**2 * self.max_pixels_tolerance
        area = math.prod(max(self._patch, round(side / cell) * cell) for side in (height, width))
        if area <= most or not self.do_image_splitting or self.min_tiles == self.max_tiles == 1:
            return 1, 1
        tile = (self.tile_size, self.tile_size)
        columns, rows = get_optimal_tiled_canvas((height, width), tile, self.min_tiles, self.max_tiles)
        return rows, columns

    def _whole_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a whole picture in whole cells, with as many tokens as the settings allow."""
        cell, sides = self._cell, (height, width)
        least, most = (tokens * cell**2 for tokens in (self.min_image_tokens, self.max_image_tokens))
        rounded = [max(cell, round(side / cell) * cell) for side in sides]
        if math.prod(rounded) > most:
            shrink = math.sqrt(height * width / most)
            rounded = [max(cell, math.floor(side / shrink / cell) * cell) for side in sides]
        elif math.prod(rounded) < least:
            stretch = math.sqrt(least / (height * width))
            rounded = [math.ceil(side * stretch / cell) * cell for side in sides]
        return rounded[0], rounded[1]

    def _resized(self, pixels: UInt8[Tensor, "3 h w"], size: tuple[int, int]) -> Float[Tensor, "3 _ _"]:
        """Resized in bytes, and normalised."""
        if pixels.shape[1:] != size:
            mode = FILTERS[PILImageResampling(self.resample)]
            pixels = F.interpolate(pixels[None], size, mode=mode, align_corners=False, antialias=True)[0]
        mean, std = (torch.tensor(value) * (1.0 / self.rescale_factor) for value in (self.image_mean, self.image_std))
        return (pixels.float() - mean[:, None, None]) / std[:, None, None]

    @property
    def _patch(self) -> int:
        return self.encoder_patch_size

    @property
    def _cell(self) -> int:
        """Side in pixels of what becomes an image token."""
        return self.encoder_patch_size * self.downsample_factor

    @property
    def _tile_patches(self) -> int:
        return (self.tile_size // self._patch) ** 2 if self.do_image_splitting else 0


def _bytes(image: Image.Image | UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.array(image if isinstance(image, np.ndarray) else image.convert("RGB"))


@dataclass(frozen=True)
class _Shown:
    """Parts of a picture, normalised: its tiles with a thumbnail, or the whole picture at `size`."""

    rows: int
    columns: int
    size: tuple[int, int]
    parts: tuple[Float[Tensor, "3 _ _"], ...]
