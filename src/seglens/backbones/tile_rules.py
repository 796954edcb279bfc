"""How families arrange the tiles of a picture by its shape, as their own image processors do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.image_processing_utils import select_best_resolution
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from seglens.backbones.tiles import Tiling


@runtime_checkable
class Tiler(Protocol):
    """How a family arranges the tiles of a picture by its shape, in chat and in reading alike."""

    newlines: ClassVar[bool]  # of its `Tiling`

    def arrange(self, config: PreTrainedConfig, height: int, width: int, most: int) -> Tiling:
        """Of a picture of this size, in at most so many tiles besides the overview."""

    def cut(
        self, config: PreTrainedConfig, processor: Any, image: UInt8[np.ndarray, "h w 3"], most: int
    ) -> Float[Tensor, "k 3 s s"]:
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

    def cut(
        self, config: PreTrainedConfig, processor: Any, image: UInt8[np.ndarray, "h w 3"], most: int
    ) -> Float[Tensor, "k 3 s s"]:
        images = processor.image_processor
        parts = images(
            Image.fromarray(image),
            crop_to_patches=True,
            min_patches=1,
            max_patches=most,
            input_data_format="channels_last",  # of a picture 1 or 3 pixels high it would be guessed, with a warning
            return_tensors="pt",
        )
        return parts["pixel_values"]


@dataclass(frozen=True)
class AnyResolution:
    """The rule of LLaVA-NeXT and OneVision ("anyres"): of the resolutions in the config, that which keeps most of the
    picture's pixels and wastes the least. The picture keeps its shape; the tokens of the padding around it are left
    out, to less than a cell. OneVision scales the grid down where it has more cells than its config allows."""

    newlines: ClassVar[bool] = True

    def arrange(self, config: PreTrainedConfig, height: int, width: int, most: int) -> Tiling:
        from transformers.models.llava_next.modeling_llava_next import unpad_image

        side, cells = _tile(config)
        down, across = (extent // side for extent in select_best_resolution((height, width), _known(config, most)))
        whole = torch.empty(0, down * cells, across * cells)
        rows, columns = unpad_image(whole, (height, width)).shape[1:]
        if 0 in (rows, columns):
            raise ValueError(
                f"a picture of {height} x {width} (height x width) pixels is too narrow to be shown in tiles: it is "
                "less than a row of cells; crop it"
            )
        return Tiling(cells, across, True, down=down, unpadded=(rows, columns), shrunk=_shrunk(config, rows, columns))

    def cut(
        self, config: PreTrainedConfig, processor: Any, image: UInt8[np.ndarray, "h w 3"], most: int
    ) -> Float[Tensor, "k 3 s s"]:
        known = _known(config, most)
        parts = processor.image_processor(
            Image.fromarray(image),
            image_grid_pinpoints=known,
            input_data_format="channels_last",  # as above
            return_tensors="pt",
        )
        return parts["pixel_values"][0]


def _tile(config: PreTrainedConfig) -> tuple[int, int]:
    """Side of a tile in pixels and in cells."""
    vision = config.vision_config
    return vision.image_size, vision.image_size // vision.patch_size


def _known(config: PreTrainedConfig, most: int) -> list[list[int]]:
    """The resolutions (height, width) in the config of up to `most` tiles. Raises ValueError where there is none."""
    side, _ = _tile(config)
    known = [[height, width] for height, width in config.image_grid_pinpoints]
    tiles = [height // side * (width // side) for height, width in known]
    if min(tiles) > most:
        raise ValueError(
            f"tiles={most} cannot be had: a {config.model_type!r} model has {min(tiles)} to {max(tiles)}; give more"
        )
    return [one for one, count in zip(known, tiles, strict=True) if count <= most]


def _shrunk(config: PreTrainedConfig, rows: int, columns: int) -> tuple[int, int] | None:
    """OneVision's "anyres_max_9": the grid is scaled to about so many tiles where it is clearly larger."""
    rule = getattr(config, "vision_aspect_ratio", None)
    if rule is None:
        return None
    ratio = math.sqrt(rows * columns / (int(rule.removeprefix("anyres_max_")) * _tile(config)[1] ** 2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else None


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
    tiler.arrange(config, 1, 1, tiles)
