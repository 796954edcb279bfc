"""LLaVA-1.5 and everything built like it: CLIP or SigLIP, a projector, any decoder-only language model."""

from __future__ import annotations

from typing import Any, final

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig

from seglens.backbones.llava_like import LlavaLike, image_features, patchwise, tower_patches
from seglens.backbones.tiles import Tiling
from seglens.backbones.vision_layout import Layout, Patches, VisionOutput


@final
class Llava(LlavaLike):
    """A `LlavaForConditionalGeneration`: one image token per patch."""

    @staticmethod
    def layout_of(config: PreTrainedConfig, image_size: int | None) -> Layout:
        return patchwise(config, image_size)

    @staticmethod
    def image_text(processor: Any) -> str:
        return processor.image_token

    def encode(self, parts: Float[Tensor, "1 3 s s"], tiling: Tiling) -> VisionOutput:
        features = image_features(self.model, parts)
        return VisionOutput(features.pooler_output[0][None], tower=tuple(features.hidden_states))

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        return tower_patches(self.model, pixels)
