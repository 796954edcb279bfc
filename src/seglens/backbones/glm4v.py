"""GLM-4.1V, GLM-4.5V and GLM-4.6V (arXiv 2507.01006): a tower for any resolution that merges patches, M-RoPE, GLM-4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig

from seglens.backbones.qwen_like import QwenLike, square
from seglens.backbones.tiles import Tiling
from seglens.backbones.vision_layout import Layout, Patches, VisionOutput


@final
class Glm4V(QwenLike):
    """A `Glm4vForConditionalGeneration`, its mixture of experts or a `Glm46VForConditionalGeneration`.

    A convolution at the end of the tower merges 2 x 2 patches. What comes out of it counts as the tower's patches here:
    one for each image token."""

    @staticmethod
    def layout_of(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision = config.vision_config
        return Layout(*square(vision, image_size), vision.out_hidden_size)

    def encode(self, parts: Float[Tensor, "1 3 s s"], tiling: Tiling) -> VisionOutput:
        return VisionOutput(self.image_features(parts).pooler_output[0][None])

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        return Patches(rearrange(self.image_features(pixels).last_hidden_state, "(b i) v -> b i v", b=len(pixels)))

    @property
    def projectors(self) -> Sequence[str]:
        return ("model.visual.merger",)
