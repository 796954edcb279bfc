"""The attention that a frozen MLLM itself pays to the image, layer by layer and head by head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from seglens.backbones.layers import readable_layers
from seglens.backbones.mllm import MLLM
from seglens.backbones.transformers_cache import Memory
from seglens.core.geometry import Frame
from seglens.core.types import HeadMaps


@dataclass(frozen=True)
class AttendedImage:
    """An image that was run through the layers that are read: the keys and values of its prefix, layer by layer."""

    frame: Frame
    positions: Int[Tensor, "1 p ..."]
    memory: Sequence[Memory]
    familiar: bool | None


@final
class HeadReader:
    """Reads the attention heads of the first `count` decoder layers of an MLLM, which stays as it is: the copies of
    its layers share every weight, and no layer above them runs.

    Raises ValueError when the MLLM was loaded without some of these layers, or one has a sliding window."""

    def __init__(self, mllm: MLLM, count: int):
        loaded, unlimited = len(mllm.language.layers), mllm.unlimited_layers
        if count > loaded:
            raise ValueError(
                f"the attention of {count} decoder layers is to be read, and the MLLM was loaded with {loaded}; "
                "load it again without segmentation_only, or with a higher layer"
            )
        if count > unlimited:
            raise ValueError(
                f"decoder layer {unlimited} has a sliding window, and every layer that is read must see all that came "
                f"before; read {unlimited} layers at most"
            )
        self.mllm, self.count = mllm, count
        # the prefix runs through the model's own attention, which need not hold all of its square in memory
        self._layers = mllm.layers(count)
        self._readable = readable_layers(self._layers.layers, self._layers.rotary)

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""
        return self.mllm.model.config.get_text_config().num_attention_heads

    @torch.no_grad()
    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> AttendedImage:
        """See an image once."""
        inputs = self.mllm.embed_image(image)
        _, memory = self._layers.prefix(inputs.rows, inputs.positions, inputs.later[: self.count])
        return AttendedImage(inputs.frame, inputs.positions, memory, inputs.familiar)

    @torch.no_grad()
    def read(self, image: AttendedImage, questions: Sequence[str]) -> HeadMaps:
        """The maps of all questions about an open image, in one pass; b is 1.

        The rows of one layer are in memory at a time, and of these the last token's are kept. Raises QuestionError as
        `Backbone.read` does."""
        inputs = self.mllm.embed_questions(questions, image.positions)
        _, q, t = inputs.mask.shape
        ends = torch.arange(q, device=inputs.mask.device) * t + inputs.mask[0].sum(-1) - 1
        tiling, end = self.mllm.tiling_of(image.frame), image.positions.shape[1]
        places, hidden, maps = end - tiling.tokens + tiling.places, inputs.rows, []
        for layer, memory in zip(self._readable, image.memory, strict=True):
            rows = layer.rows()
            hidden = layer.questions(hidden, inputs.positions, inputs.mask, [memory], rows)
            if rows.probabilities is None:  # a convolution
                maps.append(torch.zeros(self.heads, q, len(places), device=self.mllm.device))
            else:
                attention = rows.probabilities[0, :, ends.to(hidden.device)][..., places.to(hidden.device)]
                maps.append(attention.to(self.mllm.device))
        whole = rearrange(torch.stack(maps), "l n q (h w) -> 1 l n q h w", h=tiling.grid[0])
        return HeadMaps(whole, self._inside(image.frame)[None].to(whole.device))

    def _inside(self, frame: Frame) -> Bool[Tensor, "h w"]:
        """Cells whose first corner lies on the image: the others show padding alone."""
        grid = self.mllm.tiling_of(frame).grid
        rows, columns = (torch.arange(n, dtype=torch.float64) for n in grid)
        corners = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1) - 0.5
        corners = frame.to_image(frame.cells_to_canvas(corners, grid))
        return (corners < corners.new_tensor([frame.width, frame.height])).all(-1)
