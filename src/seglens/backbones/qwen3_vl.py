"""Qwen3-VL (arXiv 2511.21631): Qwen2-VL's tower and positions, q/k norms, and deepstack (arXiv 2406.04334)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from seglens.backbones.base import Backbone
from seglens.backbones.positions import in_space, of_chat
from seglens.backbones.qwen_vision import counts, cut, raster, square
from seglens.backbones.vision_layout import Layout, Patches, Seen


class Qwen3VLBackbone(Backbone):
    """A `Qwen3VLForConditionalGeneration`: what the tower saw at several depths is added behind the first decoder
    layers, so that only the states above these can be read and continued."""

    @staticmethod
    def layout(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision = config.vision_config
        first = max(1, len(vision.deepstack_visual_indexes))
        return Layout(*square(vision, image_size), vision.hidden_size, first, vision.spatial_merge_size)

    def see(self, pixels: Float[Tensor, "3 s s"]) -> Seen:
        vision = self.model.config.vision_config
        grid = counts(self.grid, vision).to(pixels.device)
        found = self.model.get_image_features(cut(pixels[None], vision), grid)
        return Seen(found.pooler_output[0][None], tuple(rows[0][None] for rows in found.deepstack_features))

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        vision = self.model.config.vision_config
        grid = counts(self.grid, vision).expand(len(pixels), -1).to(pixels.device)
        found = self.model.get_image_features(cut(pixels, vision), grid)
        later = tuple(torch.stack(rows) for rows in found.deepstack_features)
        return Patches(raster(found.last_hidden_state, self.grid, self.shuffle), later)

    def project(self, merged: Float[Tensor, "b i sv"]) -> Float[Tensor, "b i d"]:
        rows = rearrange(merged, "b i (s v) -> (b i s) v", v=self.patch_width)
        return rearrange(self.model.model.visual.merger(rows), "(b i) d -> b i d", b=len(merged))

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        return list(self.model.model.visual.blocks)

    @property
    def projectors(self) -> Sequence[str]:
        depths = range(len(self.model.config.vision_config.deepstack_visual_indexes))
        return ("model.visual.merger", *(f"model.visual.deepstack_merger_list.{n}" for n in depths))

    def prefix_positions(self, before: int) -> Int[Tensor, "p ..."]:
        return in_space(before, self.grid)

    def chat_positions(self, inputs: dict[str, Tensor]) -> Int[Tensor, "1 n 3"]:
        return of_chat(self.model, inputs)

    @staticmethod
    def image_text(processor: Any) -> str:
        return processor.image_token
