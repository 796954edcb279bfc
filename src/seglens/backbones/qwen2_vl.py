"""Qwen2-VL (arXiv 2409.12191) and Qwen2.5-VL (arXiv 2502.13923): a tower for any resolution, M-RoPE, Qwen2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.vision_utils import get_vision_window_index

from seglens.backbones.base import Backbone
from seglens.backbones.positions import in_space, of_chat
from seglens.backbones.qwen_vision import counts, cut, raster, square
from seglens.backbones.vision_layout import Layout, Patches, Seen


class Qwen2VLBackbone(Backbone):
    """A `Qwen2VLForConditionalGeneration` or its 2.5: the canvas may have any whole number of cells."""

    @staticmethod
    def layout(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision = config.vision_config
        width = vision.embed_dim if config.model_type == "qwen2_vl" else vision.hidden_size
        return Layout(*square(vision, image_size), width, shuffle=vision.spatial_merge_size)

    def see(self, pixels: Float[Tensor, "3 s s"]) -> Seen:
        vision = self.model.config.vision_config
        grid = counts(self.grid, vision).to(pixels.device)
        found = self.model.get_image_features(cut(pixels[None], vision), grid)
        return Seen(found.pooler_output[0][None])

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        vision = self.model.config.vision_config
        grid = counts(self.grid, vision).expand(len(pixels), -1).to(pixels.device)
        rows = self.model.get_image_features(cut(pixels, vision), grid).last_hidden_state
        if self.model.config.model_type == "qwen2_5_vl":  # leaves its tower window by window
            order, _ = get_vision_window_index(grid, vision.spatial_merge_size, vision.window_size, vision.patch_size)
            rows = rearrange(rows, "(c p) v -> c p v", p=self.shuffle**2)[order.argsort().to(rows.device)].flatten(0, 1)
        return Patches(raster(rows, self.grid, self.shuffle))

    def project(self, merged: Float[Tensor, "b i sv"]) -> Float[Tensor, "b i d"]:
        rows = rearrange(merged, "b i (s v) -> (b i s) v", v=self.patch_width)
        return rearrange(self.model.model.visual.merger(rows), "(b i) d -> b i d", b=len(merged))

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        return list(self.model.model.visual.blocks)

    @property
    def projectors(self) -> Sequence[str]:
        return ("model.visual.merger",)

    def prefix_positions(self, before: int) -> Int[Tensor, "p ..."]:
        return in_space(before, self.grid)

    def chat_positions(self, inputs: dict[str, Tensor]) -> Int[Tensor, "1 n 3"]:
        return of_chat(self.model, inputs)

    @staticmethod
    def image_text(processor: Any) -> str:
        return processor.image_token
