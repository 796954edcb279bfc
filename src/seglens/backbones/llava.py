"""LLaVA-1.5 and everything built like it: CLIP or SigLIP, a projector, any decoder-only language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from seglens.backbones.base import Backbone
from seglens.backbones.positions import in_line
from seglens.backbones.vision_layout import Layout, Patches, Seen, patchwise, tower, tower_layers, tower_patches


class LlavaBackbone(Backbone):
    """A `LlavaForConditionalGeneration`: one image token per patch."""

    @staticmethod
    def layout(config: PreTrainedConfig, image_size: int | None) -> Layout:
        return patchwise(config, image_size)

    def see(self, pixels: Float[Tensor, "3 s s"]) -> Seen:
        found = tower(self.model, pixels[None])
        return Seen(found.pooler_output[0][None], tower=tuple(found.hidden_states))

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        return tower_patches(self.model, pixels)

    def project(self, merged: Float[Tensor, "b i sv"]) -> Float[Tensor, "b i d"]:
        return self.model.model.multi_modal_projector(merged)

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        return tower_layers(self.model)

    @property
    def projectors(self) -> Sequence[str]:
        return ("model.multi_modal_projector",)

    def prefix_positions(self, before: int) -> Int[Tensor, "p ..."]:
        return in_line(before, self.tiling.tokens)

    @staticmethod
    def image_text(processor: Any) -> str:
        return processor.image_token
