"""How a model sees the canvas: its size, the grid of its image tokens, and the patches that these are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig

from seglens.backbones.tiles import Tiling, tiles_across
from seglens.core.pixel_shuffle import pixel_shuffle, replicate, scan
from seglens.core.types import Refill


@dataclass(frozen=True)
class Layout:
    """How a model sees the square canvas: its side in pixels, the rows and columns of its image tokens, the width of
    its vision tower's patches, the first layer whose states say all that was seen, how many patches per side an image
    token is made of, how many tiles a side is cut into, and whether newlines end their rows of tokens (`Tiling`)."""

    image_size: int
    grid: tuple[int, int]
    patch_width: int
    first_layer: int = 1
    shuffle: int = 1
    across: int = 1
    newlines: bool = False

    @property
    def tiling(self) -> Tiling:
        return Tiling(self.grid[0] // self.across, self.across, self.newlines)


@dataclass(frozen=True)
class Seen:
    """What a model's vision side says of a canvas: rows in place of the tokens that stand for the image, in the order
    of the model's own prompts (of one tile: in raster order), and rows to be added to these after the first, second,
    ... decoder layer (Qwen3-VL's deepstack).

    `tower` are the states of the vision tower before its first layer and behind each, where the family keeps them, of
    the overview where there is one; in front of the patches may stand that of a class token."""

    rows: Float[Tensor, "1 n d"]
    later: tuple[Float[Tensor, "1 i d"], ...] = ()
    tower: tuple[Float[Tensor, "1 _ v"], ...] = ()


@dataclass(frozen=True)
class Patches:
    """What the vision tower says of canvases of one tile, in raster order, before patches are merged into image tokens;
    `later` and `tower` as in `Seen`."""

    rows: Float[Tensor, "b f v"]
    later: tuple[Float[Tensor, "b i d"], ...] = ()
    tower: tuple[Float[Tensor, "b n v"], ...] = ()

    def merged(self, grid: tuple[int, int], shuffle: int) -> Float[Tensor, "b i sv"]:
        """Pixel-shuffle: the shuffle x shuffle patches of each image token side by side, row by row."""
        return rearrange(pixel_shuffle(self._map(grid, shuffle), shuffle), "b h w v -> b (h w) v")

    def refilled(self, grid: tuple[int, int], shuffle: int, by: Refill) -> Float[Tensor, "b f sv"]:
        """Every patch as wide as a merged one: from itself alone, or from the block whose first it is."""
        widen = {"replicate": replicate, "scan": scan}[by]
        return rearrange(widen(self._map(grid, shuffle), shuffle), "b h w v -> b (h w) v")

    def _map(self, grid: tuple[int, int], shuffle: int) -> Float[Tensor, "b _ _ v"]:
        return rearrange(self.rows, "b (h w) v -> b h w v", h=grid[0] * shuffle)


# ---------------------------------------------------------------- models built like LLaVA


def patchwise(config: PreTrainedConfig, image_size: int | None) -> Layout:
    """Of a model with one image token per patch of a tower of one size (CLIP, SigLIP)."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    tiles_across(config, vision.image_size, image_size, ())
    return Layout(vision.image_size, (side, side), vision.hidden_size * len(_chosen(config)))


def tower(model: Any, pixels: Float[Tensor, "*k 3 s s"], **sizes: Tensor) -> Any:
    """What the vision tower and projector of a LLaVA-like model say of the parts of one canvas, by the layer its config
    names, in `pooler_output`: a tensor of "k i d", or a list of one of "n d"; and the tower's `hidden_states`."""
    config = model.config
    return model.get_image_features(
        pixels,
        **sizes,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        output_hidden_states=True,
    )


def tower_patches(model: Any, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
    """What the vision tower alone says, by the layers its config names, without the class token."""
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    rows = torch.cat([states[n] for n in _chosen(model.config)], -1)
    default = model.config.vision_feature_select_strategy == "default"
    return Patches(rows[:, 1:] if default else rows, tower=tuple(states))


def tower_layers(model: Any) -> Sequence[nn.Module]:
    """The layers of the vision tower up to the last that its config names: those behind it change nothing."""
    count = model.config.vision_config.num_hidden_layers
    lists = (m for m in model.model.vision_tower.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    return list(next(lists))[: max(n % (count + 1) for n in _chosen(model.config))]


def _chosen(config: PreTrainedConfig) -> Sequence[int]:
    layers = config.vision_feature_layer
    return (layers,) if isinstance(layers, int) else layers
