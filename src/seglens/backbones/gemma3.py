"""Gemma 3 (arXiv 2503.19786): SigLIP whose patches are averaged, and a language model with windows in most layers."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any, ClassVar, final

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig

from seglens.backbones.llava_like import InLine, encoder_layers
from seglens.backbones.tiles import Tiling, tiles_across
from seglens.backbones.vision_layout import Layout, Patches, VisionOutput


@final
class Gemma3(InLine):
    """A `Gemma3ForConditionalGeneration`: the mean of every 4 x 4 patches becomes an image token.

    Shown one square picture, as its processor shows one without "pan and scan", which is off by default."""

    mutual: ClassVar[bool] = True
    row_token: ClassVar[str | None] = "<image_soft_token>"  # templates have <start_of_image>

    @staticmethod
    def layout_of(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision = config.vision_config
        tiles_across(config, vision.image_size, image_size, ())
        if config.text_config.use_bidirectional_attention:
            raise ValueError(
                "its words see those after them (use_bidirectional_attention), and only causal words are read; "
                "choose a model that generates text"
            )
        side, cells = vision.image_size // vision.patch_size, isqrt(config.mm_tokens_per_image)
        if cells**2 != config.mm_tokens_per_image or side % cells:
            raise ValueError(
                f"mm_tokens_per_image={config.mm_tokens_per_image} is no square grid of blocks of the {side} x {side} "
                "patches of the vision tower; the config is not that of a published model"
            )
        return Layout(vision.image_size, (cells, cells), vision.hidden_size, shuffle=side // cells)

    @staticmethod
    def image_text(processor: Any) -> str:
        tokenizer = processor.tokenizer
        return f"\n\n{tokenizer.boi_token}{tokenizer.image_token}{tokenizer.eoi_token}\n\n"

    def encode(self, parts: Float[Tensor, "1 3 s s"], tiling: Tiling) -> VisionOutput:
        return VisionOutput(self.model.model.multi_modal_projector(self.patches(parts).rows))

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        return Patches(self.model.model.vision_tower(pixels).last_hidden_state)

    def project(self, merged: Float[Tensor, "b i sv"]) -> Float[Tensor, "b i d"]:
        """The projector takes the patches of whole pictures only: the last is filled up."""
        (rows, columns), shuffle, count = self.layout.grid, self.layout.shuffle, merged.shape[1]
        filled = F.pad(merged, (0, 0, 0, -count % (rows * columns)))
        pictures = rearrange(filled, "b (k y x) (u w v) -> (b k) (y u x w) v", y=rows, x=columns, u=shuffle, w=shuffle)
        projected = self.model.model.multi_modal_projector(pictures)
        return rearrange(projected, "(b k) i d -> b (k i) d", b=len(merged))[:, :count]

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        return encoder_layers(self.model.model.vision_tower, self.model.config.vision_config)

    @property
    def projectors(self) -> Sequence[str]:
        return ("model.multi_modal_projector",)
