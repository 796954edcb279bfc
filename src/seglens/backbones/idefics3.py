"""Idefics3 (arXiv 2408.12637), SmolVLM and SmolVLM2 (arXiv 2504.05299): SigLIP, pixel-shuffle and a LLaMA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig

from seglens.backbones.llava_like import InLine
from seglens.backbones.tiles import Tiling, tiles_across
from seglens.backbones.vision_layout import Layout, Patches, VisionOutput


@final
class Idefics3(InLine):
    """An `Idefics3ForConditionalGeneration` or a `SmolVLMForConditionalGeneration`: pixel-shuffle leaves a token for
    every 2 x 2, 3 x 3 or 4 x 4 patches.

    Shown one square picture, as its processor shows one with `do_image_splitting=False`; a chat about a large picture
    shows parts of it before that."""

    @staticmethod
    def layout_of(config: PreTrainedConfig, image_size: int | None) -> Layout:
        vision, shuffle = config.vision_config, config.scale_factor
        tiles_across(config, vision.image_size, image_size, ())
        side = vision.image_size // vision.patch_size
        if side % shuffle:
            raise ValueError(
                f"scale_factor={shuffle} does not divide the {side} patches along a side of the vision tower; "
                "the config is not that of a published model"
            )
        return Layout(vision.image_size, (side // shuffle, side // shuffle), vision.hidden_size, shuffle=shuffle)

    @staticmethod
    def image_text(processor: Any) -> str:
        whole = getattr(processor, "global_image_tag", None) or processor.global_image_token  # Idefics3, SmolVLM
        return f"{processor.fake_image_token}{whole}{processor.image_token}{processor.fake_image_token}"

    def encode(self, parts: Float[Tensor, "1 3 s s"], tiling: Tiling) -> VisionOutput:
        return VisionOutput(self.model.model.connector(self.patches(parts).rows))

    def patches(self, pixels: Float[Tensor, "b 3 s s"]) -> Patches:
        return Patches(self.model.model.vision_model(pixels).last_hidden_state)

    def project(self, merged: Float[Tensor, "b i sv"]) -> Float[Tensor, "b i d"]:
        return self.model.model.connector.modality_projection(merged)

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        return list(self.model.model.vision_model.encoder.layers)

    @property
    def projectors(self) -> Sequence[str]:
        return ("model.connector.modality_projection",)
