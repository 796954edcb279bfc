"""LFM2-VL (arXiv 2511.23404): SigLIP 2 for any resolution, pixel-shuffle, and a language model in which
short convolutions stand between layers of attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig

from seglens.backbones.llava_like import InLine, encoder_layers
from seglens.backbones.qwen_like import whole_cells
from seglens.backbones.tiles import Tiling
from seglens.backbones.vision_layout import Layout, Patches, VisionOutput

CELLS = 16  # a side by default: as many image tokens as its chat gives a square picture at most


@final
class Lfm2VL(InLine):
    """An `Lfm2VlForConditionalGeneration`: pixel-shuffle leaves a token for every 2 x 2 patches.

    Shown one square picture, as its processor shows one with `do_image_splitting=False`; a chat about a large picture
    shows parts of it before that."""

    final_norm: ClassVar[str] = "embedding_norm"

    @staticmethod
    def layout_of(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision, shuffle = config.vision_config, config.downsample_factor
        side, grid = whole_cells(vision.patch_size * shuffle, image_size, CELLS)
        return Layout(side, grid, vision.hidden_size, shuffle=shuffle)

    @staticmethod
    def image_text(processor: Any) -> str:
        marks = (processor.image_start_token, processor.image_end_token)
        begin, end = marks if processor.use_image_special_tokens else ("", "")
        return f"{begin}{processor.image_token}{end}"

    def encode(self, parts: Float[Tensor, "1 3 s s"], tiling: Tiling) -> VisionOutput:
        layout = self.layout
        return VisionOutput(self.project(self.patches(parts).merged(layout.grid, layout.shuffle)))

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        size = self.model.config.vision_config.patch_size
        cut = rearrange(pixels, "b c (h y) (w x) -> b (h w) (y x c)", y=size, x=size)
        shape = torch.tensor([[side // size for side in pixels.shape[2:]]], device=cut.device).expand(len(cut), -1)
        mask = torch.ones(cut.shape[:2], dtype=torch.int32, device=cut.device)
        tower = self.model.model.vision_tower(pixel_values=cut, pixel_attention_mask=mask, spatial_shapes=shape)
        return Patches(tower.last_hidden_state)

    def project(self, merged: Float[Tensor, "b i sv"]) -> Float[Tensor, "b i d"]:
        """The projector merges the patches itself: it is given those of one token as a picture of their own."""
        side = self.layout.shuffle
        blocks = rearrange(merged, "b i (u w v) -> (b i) u w v", u=side, w=side)
        return rearrange(self.model.model.multi_modal_projector(blocks), "(b i) 1 1 d -> b i d", b=len(merged))

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        return encoder_layers(self.model.model.vision_tower, self.model.config.vision_config)

    @property
    def projectors(self) -> Sequence[str]:
        return ("model.multi_modal_projector",)
