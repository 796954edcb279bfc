"""InternVL 2.5 and 3 in transformers' own form (`-hf`): InternViT, pixel-shuffle, Qwen2 or LLaMA."""

from __future__ import annotations

from typing import Any, ClassVar, final

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig

from seglens.backbones.llava_like import LlavaLike, image_features, without_class_token
from seglens.backbones.tile_rules import ClosestShape, Tiler
from seglens.backbones.tiles import Tiling, tiles_across
from seglens.backbones.vision_layout import Layout, Patches, VisionOutput

TILES = (2, 3)  # along a side: it was made for up to 12 tiles


@final
class InternVL(LlavaLike):
    """An `InternVLForConditionalGeneration`: pixel-shuffle leaves a token for every 2 x 2 patches.

    Shown one tile, or several and then a thumbnail: a square of them for every picture, as its own chat shows a square
    one, or arranged by its shape."""

    tiler: ClassVar[Tiler | None] = ClosestShape()

    @staticmethod
    def layout_of(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision = config.vision_config
        (height, width), (patch, _) = vision.image_size, vision.patch_size
        if height != width:
            raise ValueError(f"the model sees tiles of {height} x {width} pixels; only square ones can be read")
        cells, shuffle = int(height // patch * config.downsample_ratio), round(1 / config.downsample_ratio)
        across = tiles_across(config, height, image_size, TILES)
        side = across * cells
        return Layout(across * height, (side, side), vision.hidden_size, shuffle=shuffle, across=across)

    @staticmethod
    def image_text(processor: Any) -> str:
        return f"{processor.start_image_token}{processor.image_token}{processor.end_image_token}"

    def encode(self, parts: Float[Tensor, "k 3 s s"], tiling: Tiling) -> VisionOutput:
        features = image_features(self.model, parts)
        rows = rearrange(features.pooler_output, "k i d -> 1 (k i) d")
        return VisionOutput(rows, tower=tuple(states[-1:] for states in features.hidden_states))

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        features = self.model.model.vision_tower(pixels, output_hidden_states=True)
        layer = self.model.config.vision_feature_layer
        rows = features.last_hidden_state if layer == -1 else features.hidden_states[layer]
        return without_class_token(self.model.config, rows, features.hidden_states)
