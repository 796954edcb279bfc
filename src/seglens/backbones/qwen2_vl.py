"""Qwen2-VL (arXiv 2409.12191) and Qwen2.5-VL (arXiv 2502.13923): a tower for any resolution, M-RoPE, Qwen2."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig

from seglens.backbones.base import Backbone, Layout, Seen
from seglens.backbones.patches import counts, patches, square
from seglens.backbones.positions import in_space


class Qwen2VLBackbone(Backbone):
    """A `Qwen2VLForConditionalGeneration` or its 2.5: the canvas may have any whole number of cells."""

    @staticmethod
    def layout(config: PreTrainedConfig, image_size: int | None) -> Layout:
        return Layout(*square(config.vision_config, image_size))

    def see(self, pixels: Float[Tensor, "3 s s"]) -> Seen:
        vision = self.model.config.vision_config
        grid = counts(self.grid, vision).to(pixels.device)
        found = self.model.get_image_features(patches(pixels, vision), grid)
        return Seen(found.pooler_output[0][None])

    def prefix_positions(self, before: int) -> Int[Tensor, "p ..."]:
        return in_space(before, self.grid)

    @staticmethod
    def image_text(processor: Any) -> str:
        return processor.image_token
