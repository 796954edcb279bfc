"""LLaVA-OneVision (arXiv 2408.03326): SigLIP, a projector, Qwen2; and LLaVA-NeXT (1.6), built alike around CLIP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig

from seglens.backbones.llava_like import LlavaLike, patchwise, tower_patches
from seglens.backbones.tile_rules import AnyResolution, Tiler
from seglens.backbones.tiles import Tiling, tiles_across
from seglens.backbones.vision_layout import Layout, Patches, VisionOutput


@final
class LlavaOnevision(LlavaLike):
    """A `LlavaOnevision-` or `LlavaNextForConditionalGeneration`, shown the base image only, as the authors of LENS do
    with the former, or the base image and tiles: a square of them for every picture, as its own chat shows a square
    one, or arranged by its shape."""

    tiler: ClassVar[Tiler | None] = AnyResolution()

    @staticmethod
    def layout_of(config: PreTrainedConfig, image_size: int | None) -> Layout:
        one = patchwise(config, None)
        across = tiles_across(config, one.image_size, image_size, _squares(config, one.image_size))
        side = across * one.grid[0]
        return replace(one, image_size=across * one.image_size, grid=(side, side), across=across, newlines=across > 1)

    @staticmethod
    def image_text(processor: Any) -> str:
        return processor.image_token

    def encode(self, parts: Float[Tensor, "k 3 s s"], tiling: Tiling) -> VisionOutput:
        # transformers' own get_image_features knows no image without tiles, nor some of the config's resolutions
        patches = tower_patches(self.model, parts)
        rows = self.project(patches.rows)
        if tiling.newlines:
            rows = tiling.packed(rows, self.model.model.image_newline)[None]
        return VisionOutput(rows, tower=tuple(states[:1] for states in patches.tower))

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        return tower_patches(self.model, pixels)


def _squares(config: PreTrainedConfig, own: int) -> list[int]:
    """How many tiles lie along the sides of the square canvases that the model was made for, where it keeps the tokens
    of all of them: of more than nine (`anyres_max_9`) OneVision makes fewer."""
    rule = getattr(config, "vision_aspect_ratio", None)
    most = float("inf") if rule is None else 1.1**2 * int(rule.removeprefix("anyres_max_"))
    sides = sorted(h for h, w in config.image_grid_pinpoints if h == w and h > own)
    return [side // own for side in sides if (side // own) ** 2 <= most]
