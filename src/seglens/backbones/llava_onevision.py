"""LLaVA-OneVision (arXiv 2408.03326): SigLIP, a projector, Qwen2; and LLaVA-NeXT (1.6), built alike around CLIP."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig

from seglens.backbones.base import Backbone, Layout, Seen, patchwise
from seglens.backbones.positions import in_line


class LlavaOnevisionBackbone(Backbone):
    """A `LlavaOnevision-` or `LlavaNextForConditionalGeneration`, shown the base tile only, as the authors of LENS do
    with the former: the tiles of higher resolution that a chat adds lie in no single grid. Chatting uses them."""

    @staticmethod
    def layout(config: PreTrainedConfig, image_size: int | None) -> Layout:
        return patchwise(config, image_size)

    def see(self, pixels: Float[Tensor, "3 s s"]) -> Seen:
        # transformers' own get_image_features knows no image without tiles
        config, model = self.model.config, self.model.model
        states = model.vision_tower(pixels[None], output_hidden_states=True).hidden_states
        chosen = config.vision_feature_layer
        features = states[chosen] if isinstance(chosen, int) else torch.cat([states[n] for n in chosen], -1)
        if config.vision_feature_select_strategy == "default":
            features = features[:, 1:]  # without the class token
        return Seen(model.multi_modal_projector(features))

    def prefix_positions(self, before: int) -> Int[Tensor, "p ..."]:
        return in_line(before, self.grid)

    @staticmethod
    def image_text(processor: Any) -> str:
        return processor.image_token
