"""What models built like LLaVA share: a vision tower, one projector, and text positions along one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from seglens.backbones.family import Family
from seglens.backbones.positions import in_line
from seglens.backbones.tiles import Tiling, tiles_across
from seglens.backbones.vision_layout import Layout, Patches


class InLine(Family):
    """An abstract family whose tokens, those of the image too, stand at positions along one line."""

    def prefix_positions(self, before: int, tiling: Tiling) -> Int[Tensor, " p"]:
        return in_line(before, tiling.tokens)

    def chat_positions(self, inputs: Mapping[str, Tensor]) -> Int[Tensor, "1 n"]:
        ids = inputs["input_ids"]
        return in_line(ids.shape[1], 0)[None].to(ids.device)


class LlavaLike(InLine):
    """An abstract family: what it fills in is the same for all of them."""

    def project(self, merged: Float[Tensor, "b i sv"]) -> Float[Tensor, "b i d"]:
        return self.model.model.multi_modal_projector(merged)

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        """Up to the last layer that the config names: those above it change nothing."""
        config = self.model.config
        layers = encoder_layers(self.model.model.vision_tower, config.vision_config)
        return layers[: max(n % (len(layers) + 1) for n in chosen_layers(config))]

    @property
    def projectors(self) -> Sequence[str]:
        return ("model.multi_modal_projector",)


def encoder_layers(tower: nn.Module, vision: PreTrainedConfig) -> list[nn.Module]:
    """All layers of a vision tower, wherever a version of transformers keeps them."""
    count = vision.num_hidden_layers
    return list(next(m for m in tower.modules() if isinstance(m, nn.ModuleList) and len(m) == count))


def patchwise(config: PreTrainedConfig, image_size: int | None) -> Layout:
    """Of a model with one image token per patch of a tower of one size (CLIP, SigLIP)."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    tiles_across(config, vision.image_size, image_size, ())
    return Layout(vision.image_size, (side, side), vision.hidden_size * len(chosen_layers(config)))


def image_features(model: Any, pixels: Float[Tensor, "*k 3 s s"], **sizes: Tensor) -> Any:
    """The features of the parts of one canvas, by the layer that the config names: in `pooler_output` those after the
    projector, a tensor of "k i d" or a list of one of "n d"; in `hidden_states` those of the tower."""
    config = model.config
    return model.get_image_features(
        pixels,
        **sizes,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        output_hidden_states=True,
    )


def tower_patches(model: Any, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
    """The patches of the vision tower at the layers that the config names."""
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return without_class_token(model.config, torch.cat([states[n] for n in chosen_layers(model.config)], -1), states)


def without_class_token(
    config: PreTrainedConfig, rows: Float[Tensor, "b n v"], states: Sequence[Float[Tensor, "b n w"]]
) -> Patches:
    """The patches among the rows of a tower: with the strategy "default" a class token stands before them."""
    default = config.vision_feature_select_strategy == "default"
    return Patches(rows[:, 1:] if default else rows, tower=tuple(states))


def chosen_layers(config: PreTrainedConfig) -> Sequence[int]:
    """The layers of the tower that the config names."""
    layers = config.vision_feature_layer
    return (layers,) if isinstance(layers, int) else layers
