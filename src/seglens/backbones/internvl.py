"""InternVL 2.5 and 3 in transformers' own form (`-hf`): InternViT, pixel-shuffle, Qwen2 or LLaMA."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig

from seglens.backbones.base import Backbone, Layout, Seen, fixed_size, tower
from seglens.backbones.positions import in_line


class InternVLBackbone(Backbone):
    """An `InternVLForConditionalGeneration`, shown one tile: pixel-shuffle leaves a token for every 2 x 2 patches."""

    @staticmethod
    def layout(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision = config.vision_config
        (height, width), (patch, _) = vision.image_size, vision.patch_size
        if height != width:
            raise ValueError(f"the model sees tiles of {height} x {width} pixels; only square ones can be read")
        cells = int(height // patch * config.downsample_ratio)
        return Layout(fixed_size(config, height, image_size), (cells, cells))

    def see(self, pixels: Float[Tensor, "3 s s"]) -> Seen:
        return Seen(tower(self.model, pixels))

    def prefix_positions(self, before: int) -> Int[Tensor, "p ..."]:
        return in_line(before, self.grid)

    @staticmethod
    def image_text(processor: Any) -> str:
        return f"{processor.start_image_token}{processor.image_token}{processor.end_image_token}"
