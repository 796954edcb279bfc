"""Qwen2-VL (arXiv 2409.12191) and Qwen2.5-VL (arXiv 2502.13923): a tower for any resolution, M-RoPE, Qwen2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.vision_utils import get_vision_window_index

from seglens.backbones.qwen_like import QwenLike, raster, square
from seglens.backbones.tiles import Tiling
from seglens.backbones.vision_layout import Layout, Patches, VisionOutput


@final
class Qwen2VL(QwenLike):
    """A `Qwen2VLForConditionalGeneration` or its 2.5: the canvas may have any whole number of cells."""

    @staticmethod
    def layout_of(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision = config.vision_config
        width = vision.embed_dim if config.model_type == "qwen2_vl" else vision.hidden_size
        return Layout(*square(vision, image_size), width, shuffle=vision.spatial_merge_size)

    def encode(self, parts: Float[Tensor, "1 3 s s"], tiling: Tiling) -> VisionOutput:
        return VisionOutput(self.image_features(parts).pooler_output[0][None])

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        rows = self.image_features(pixels).last_hidden_state
        if self.model.config.model_type == "qwen2_5_vl":
            rows = self._without_windows(rows, pixels)
        return Patches(raster(rows, self.layout.grid, self.layout.shuffle))

    def _without_windows(self, rows: Float[Tensor, "n v"], pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "n v"]:
        """Qwen2.5-VL's tower gives its rows window by window: here cell by cell, as they went in."""
        vision, counts = self.model.config.vision_config, self.patch_counts(pixels)
        order, _ = get_vision_window_index(counts, vision.spatial_merge_size, vision.window_size, vision.patch_size)
        cells = rearrange(rows, "(c p) v -> c p v", p=self.layout.shuffle**2)
        return cells[order.argsort().to(rows.device)].flatten(0, 1)

    @property
    def projectors(self) -> Sequence[str]:
        return ("model.visual.merger",)
