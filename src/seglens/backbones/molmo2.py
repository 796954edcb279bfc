"""Molmo 2 (arXiv 2601.10611): SigLIP 2 on overlapping crops, attention that pools their patches, and a Qwen3."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from seglens.backbones.llava_like import InLine
from seglens.backbones.tiles import Tiling, tiles_across
from seglens.backbones.vision_layout import Layout, Patches, VisionOutput

# The settings of the published processors, which the model's config does not have
MARGIN = 4  # patches along the side of a crop that it shares with its neighbour and leaves to it
POOLED = 2  # patches along a side of what becomes one image token
ACROSS = 2  # crops along a side of a large square picture: of at most 8, no larger square can be made
PATCH = "<im_patch>"
TOKENS = {"image_use_col_tokens": True, "use_single_crop_col_tokens": False, "use_single_crop_start_token": True}


@final
class Molmo2(InLine):
    """A `Molmo2ForConditionalGeneration`, shown a picture as its processor shows a large square one: reduced to the
    size of a crop, then in 2 x 2 crops that overlap. The grid is that of the crops. The reduced picture, the tokens
    that end rows and those around both belong to the image, too: all of them see each other.

    A canvas of one crop would have 27 x 27 patches, which are no whole number of cells."""

    mutual: ClassVar[bool] = True
    row_token: ClassVar[str | None] = PATCH  # templates have <|image|>

    @staticmethod
    def layout_of(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision, side = config.vision_config, _side(config)
        patches = ACROSS * (side - 2 * MARGIN) + 2 * MARGIN
        tiles_across(config, patches * vision.patch_size, image_size, ())
        if side <= 2 * MARGIN or vision.num_position_embeddings != side**2:
            raise ValueError(
                f"its crops of {side} x {side} patches, with {vision.num_position_embeddings} positions, cannot share "
                f"{2 * MARGIN} of a side; the config is not that of a published model"
            )
        _check_same_rotary(config.text_config)
        if getattr(config, "image_col_id", None) is None:
            raise ValueError(
                "its config has no image_col_id, the token that ends a row; take the published config.json"
            )
        cells = patches // POOLED
        width = vision.hidden_size * len(config.adapter_config.vision_feature_layer)
        around = (-(-side // POOLED)) ** 2 + 3, 1
        return Layout(patches * vision.patch_size, (cells, cells), width, shuffle=POOLED, newlines=True, around=around)

    @staticmethod
    def image_text(processor: Any) -> str:
        """The image begins the conversation, after the token that the processor puts where a template has none.

        Raises ValueError for settings of the processor with which its model is shown pictures in another way."""
        images = processor.image_processor
        settings = {name: getattr(processor, name) for name in TOKENS}
        settings |= {name: list(getattr(images, name)) for name in ("overlap_margins", "pooling_size")}
        published = {**TOKENS, "overlap_margins": [MARGIN, MARGIN], "pooling_size": [POOLED, POOLED]}
        if settings != published:
            raise ValueError(f"its processor has the settings {settings}; only the published are read: {published}")
        begin = processor.tokenizer.bos_token or processor.tokenizer.eos_token
        begun = processor.apply_chat_template([{"role": "user", "content": "?"}]).startswith(begin)
        return PATCH if begun else f"{begin}{PATCH}"

    def encode(self, parts: Float[Tensor, "1 3 s s"], tiling: Tiling) -> VisionOutput:
        reduced = F.interpolate(parts, (self._crop, self._crop), mode="bilinear")  # as its processor: no antialias
        cells = self.project(self.patches(parts).merged(self.layout.grid, self.layout.shuffle))
        features = torch.cat([self._pooled(self._tower(reduced)), cells], 1)
        ids = self._ids(tiling).to(parts.device)
        rows = self.model.get_input_embeddings()(ids)[None]
        image = ids == self.model.config.image_patch_id
        rows[:, image] = rows[:, image] + features.to(rows)
        return VisionOutput(rows)

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        """Of the crops, each without the margins that its neighbours show."""
        side, size = _side(self.model.config), self._crop
        step = size - 2 * MARGIN * self.model.config.vision_config.patch_size
        crops = pixels.unfold(2, size, step).unfold(3, size, step)
        rows = self._tower(rearrange(crops, "b c y x h w -> (b y x) c h w"))
        maps = rearrange(rows, "(b y x) (h w) v -> b y x h w v", y=ACROSS, x=ACROSS, h=side)
        own = lambda n: slice(MARGIN if n else 0, side if n == ACROSS - 1 else side - MARGIN)  # noqa: E731
        lines = [torch.cat([maps[:, y, x, own(y), own(x)] for x in range(ACROSS)], 2) for y in range(ACROSS)]
        return Patches(rearrange(torch.cat(lines, 1), "b h w v -> b (h w) v"))

    def project(self, merged: Float[Tensor, "b i sv"]) -> Float[Tensor, "b i d"]:
        blocks = rearrange(merged, "b i (s v) -> (b i) s v", s=POOLED**2)
        every = torch.arange(blocks.shape[0] * POOLED**2, device=merged.device).reshape(-1, POOLED**2)
        rows = self.model.model.multi_modal_projector(blocks, every).last_hidden_state
        return rearrange(rows, "(b i) d -> b i d", b=len(merged))

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        return list(self.model.model.vision_tower.layers)

    @property
    def projectors(self) -> Sequence[str]:
        return ("model.multi_modal_projector",)

    # ---------------------------------------------------------------- the parts of a picture

    @property
    def _crop(self) -> int:
        """Side of a crop in pixels."""
        return self.model.config.vision_config.image_size[0]

    def _tower(self, crops: Float[Tensor, "k 3 s s"]) -> Float[Tensor, "k f v"]:
        """Patches of the layers that the config names, side by side."""
        size = self.model.config.vision_config.patch_size
        pixels = rearrange(crops, "k c (h p) (w q) -> k (h w) (p q c)", p=size, q=size)
        states = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        layers = self.model.config.adapter_config.vision_feature_layer
        return torch.cat([states[n + 1 if n >= 0 else n] for n in layers], -1)

    def _pooled(self, rows: Float[Tensor, "1 f v"]) -> Float[Tensor, "1 i d"]:
        """The image tokens of one crop: its last cells hold fewer patches."""
        side = isqrt(rows.shape[1])
        places = torch.arange(side**2, device=rows.device).reshape(side, side)
        filled = F.pad(places, (0, -side % POOLED, 0, -side % POOLED), value=-1)
        blocks = rearrange(filled, "(h u) (w v) -> (h w) (u v)", u=POOLED, v=POOLED)
        return self.model.model.multi_modal_projector(rows, blocks).last_hidden_state[None]

    def _ids(self, tiling: Tiling) -> Int[Tensor, " n"]:
        """Those of the image's tokens in a prompt."""
        config, (height, width) = self.model.config, tiling.grid
        patch, end = config.image_patch_id, config.image_end_token_id
        reduced = [config.low_res_image_start_token_id, *[patch] * (tiling.around[0] - 3), end]
        rows = [*[patch] * width, config.image_col_id] * height
        return torch.tensor([*reduced, config.image_start_token_id, *rows, end])


def _side(config: PreTrainedConfig) -> int:
    """Patches along a side of a crop."""
    return config.vision_config.image_size[0] // config.vision_config.patch_size


def _check_same_rotary(text: PreTrainedConfig) -> None:
    """Raises ValueError where layers differ in their rotary positions: those of one kind are read."""
    scaled = set(text.rope_scaling_layers) >= set(range(text.num_hidden_layers))
    if not scaled and text.rope_parameters["rope_type"] != "default":
        raise ValueError(
            "some of its layers scale their rotary positions and others do not (rope_scaling_layers), and those of one "
            "kind are read; choose a Molmo 2 with a Qwen3"
        )
