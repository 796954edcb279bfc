"""Qwen3-VL (arXiv 2511.21631): Qwen2-VL's tower and positions, q/k norms, and deepstack (arXiv 2406.04334)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig

from seglens.backbones.qwen_like import QwenLike, raster, square
from seglens.backbones.tiles import Tiling
from seglens.backbones.vision_layout import Layout, Patches, VisionOutput


@final
class Qwen3VL(QwenLike):
    """A `Qwen3VLForConditionalGeneration`: states of the tower at several depths are added after the first decoder
    layers, so that only the states above these can be read and continued."""

    @staticmethod
    def layout_of(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision = config.vision_config
        first = max(1, len(vision.deepstack_visual_indexes))
        return Layout(*square(vision, image_size), vision.hidden_size, first, vision.spatial_merge_size)

    def encode(self, parts: Float[Tensor, "1 3 s s"], tiling: Tiling) -> VisionOutput:
        features = self.image_features(parts)
        return VisionOutput(
            features.pooler_output[0][None], tuple(rows[0][None] for rows in features.deepstack_features)
        )

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        features = self.image_features(pixels)
        later = tuple(torch.stack(rows) for rows in features.deepstack_features)
        return Patches(raster(features.last_hidden_state, self.layout.grid, self.layout.shuffle), later)

    @property
    def projectors(self) -> Sequence[str]:
        depths = range(len(self.model.config.vision_config.deepstack_visual_indexes))
        return ("model.visual.merger", *(f"model.visual.deepstack_merger_list.{n}" for n in depths))
