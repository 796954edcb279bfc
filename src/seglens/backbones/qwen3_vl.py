"""Qwen3-VL (arXiv 2511.21631): Qwen2-VL's tower and positions, q/k norms, and deepstack (arXiv 2406.04334)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig

from seglens.backbones.base import Backbone, Layout, Seen
from seglens.backbones.patches import counts, patches, square
from seglens.backbones.positions import in_space


class Qwen3VLBackbone(Backbone):
    """A `Qwen3VLForConditionalGeneration`: what the tower saw at several depths is added behind the first decoder
    layers, so that only the states above these can be read and continued."""

    @staticmethod
    def layout(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision = config.vision_config
        return Layout(*square(vision, image_size), first_layer=max(1, len(vision.deepstack_visual_indexes)))

    def see(self, pixels: Float[Tensor, "3 s s"]) -> Seen:
        vision = self.model.config.vision_config
        grid = counts(self.grid, vision).to(pixels.device)
        found = self.model.get_image_features(patches(pixels, vision), grid)
        return Seen(found.pooler_output[0][None], tuple(rows[0][None] for rows in found.deepstack_features))

    def prefix_positions(self, before: int) -> Int[Tensor, "p ..."]:
        return in_space(before, self.grid)

    @staticmethod
    def image_text(processor: Any) -> str:
        return processor.image_token
