"""LLaVA-OneVision (arXiv 2408.03326): SigLIP, a projector, Qwen2; and LLaVA-NeXT (1.6), built alike around CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from seglens.backbones.base import Backbone
from seglens.backbones.positions import in_line
from seglens.backbones.tiles import tiles_across
from seglens.backbones.vision_layout import Layout, Patches, Seen, patchwise, tower, tower_layers, tower_patches


class LlavaOnevisionBackbone(Backbone):
    """A `LlavaOnevision-` or `LlavaNextForConditionalGeneration`, shown the base image only, as the authors of LENS do
    with the former, or the base image and a square of tiles, as its own chat shows a square picture."""

    @staticmethod
    def layout(config: PreTrainedConfig, image_size: int | None) -> Layout:
        one = patchwise(config, None)
        across = tiles_across(config, one.image_size, image_size, _squares(config, one.image_size))
        side = across * one.grid[0]
        return replace(one, image_size=across * one.image_size, grid=(side, side), across=across, newlines=across > 1)

    def see(self, pixels: Float[Tensor, "3 s s"]) -> Seen:
        if self.tiling.across > 1:
            sizes = torch.tensor([pixels.shape[1:]], device=pixels.device)
            tiled = tower(self.model, self.tiling.cut(pixels[None]), image_sizes=sizes)
            return Seen(tiled.pooler_output[0][None], tower=tuple(states[:1] for states in tiled.hidden_states))
        # transformers' own get_image_features knows no image without tiles
        found = tower_patches(self.model, pixels[None])
        return Seen(self.project(found.rows), tower=found.tower)

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


def _squares(config: PreTrainedConfig, own: int) -> list[int]:
    """How many tiles lie along the sides of the square canvases that the model was made for, where it keeps the tokens
    of all of them: of more than nine (`anyres_max_9`) OneVision makes fewer."""
    said = getattr(config, "vision_aspect_ratio", None)
    most = float("inf") if said is None else 1.1**2 * int(said.removeprefix("anyres_max_"))
    sides = sorted(h for h, w in config.image_grid_pinpoints if h == w and h > own)
    return [side // own for side in sides if (side // own) ** 2 <= most]
