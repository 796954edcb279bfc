"""SAM (arXiv 2304.02643) through transformers: a plain ViT and one map at a sixteenth of the canvas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import SamConfig, SamModel

from seglens.core.types import Embedding
from seglens.decoders.base import MaskDecoder


class SamDecoder(MaskDecoder):
    """Wraps a `SamModel`, such as `facebook/sam-vit-huge`; freezes it."""

    model = SamModel
    leading = 1  # the IoU token
    idle = ("iou_prediction_head",)

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.width, self.side, self.side),)

    def _embed(self, pixels: Float[Tensor, "b 3 s s"]) -> Embedding:
        return Embedding(self.module.get_image_embeddings(pixels))

    def _finer(self, fine: list[Float[Tensor, "b _ _ _"]]) -> dict[str, Any]:
        return {}


def sam_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of the SAM that a folder's config describes, by their names."""
    with torch.device("meta"):
        model = SamModel(SamConfig.from_pretrained(folder))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
