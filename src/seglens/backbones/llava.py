"""LLaVA-1.5 and everything built like it: CLIP or SigLIP, a projector, any decoder-only language model."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig

from seglens.backbones.base import Backbone, Layout, Seen, patchwise, tower
from seglens.backbones.positions import in_line


class LlavaBackbone(Backbone):
    """A `LlavaForConditionalGeneration`: one image token per patch."""

    @staticmethod
    def layout(config: PreTrainedConfig, image_size: int | None) -> Layout:
        return patchwise(config, image_size)

    def see(self, pixels: Float[Tensor, "3 s s"]) -> Seen:
        return Seen(tower(self.model, pixels)[0][None])

    def prefix_positions(self, before: int) -> Int[Tensor, "p ..."]:
        return in_line(before, self.grid)

    @staticmethod
    def image_text(processor: Any) -> str:
        return processor.image_token
