"""InternVL 2.5 and 3 in transformers' own form (`-hf`): InternViT, pixel-shuffle, Qwen2 or LLaMA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from seglens.backbones.base import Backbone
from seglens.backbones.positions import in_line
from seglens.backbones.tiles import tiles_across
from seglens.backbones.vision_layout import Layout, Patches, Seen, tower, tower_layers

TILES = (2, 3)  # along a side: it was made for up to 12 tiles


class InternVLBackbone(Backbone):
    """An `InternVLForConditionalGeneration`: pixel-shuffle leaves a token for every 2 x 2 patches.

    Shown one tile, or a square of them and then a thumbnail, as its own chat shows a square picture."""

    @staticmethod
    def layout(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision = config.vision_config
        (height, width), (patch, _) = vision.image_size, vision.patch_size
        if height != width:
            raise ValueError(f"the model sees tiles of {height} x {width} pixels; only square ones can be read")
        cells, shuffle = int(height // patch * config.downsample_ratio), round(1 / config.downsample_ratio)
        across = tiles_across(config, height, image_size, TILES)
        side = across * cells
        return Layout(across * height, (side, side), vision.hidden_size, shuffle=shuffle, across=across)

    def see(self, pixels: Float[Tensor, "3 s s"]) -> Seen:
        found = tower(self.model, self.tiling.cut(pixels[None])[0])
        rows = rearrange(found.pooler_output, "k i d -> 1 (k i) d")
        return Seen(rows, tower=tuple(states[-1:] for states in found.hidden_states))

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        found = self.model.model.vision_tower(pixels, output_hidden_states=True)
        chosen = self.model.config.vision_feature_layer
        rows = found.last_hidden_state if chosen == -1 else found.hidden_states[chosen]
        default = self.model.config.vision_feature_select_strategy == "default"
        return Patches(rows[:, 1:] if default else rows, tower=tuple(found.hidden_states))

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
        return f"{processor.start_image_token}{processor.image_token}{processor.end_image_token}"
