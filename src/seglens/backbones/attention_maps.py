"""The attention that a frozen MLLM itself pays to the image, layer by layer and head by head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from seglens.backbones.base import Backbone
from seglens.backbones.layers import DecoderLayers, watched_layers
from seglens.backbones.read_layer import whole_sight
from seglens.backbones.transformers_cache import Pair
from seglens.core.geometry import Frame
from seglens.core.types import HeadMaps


@dataclass(frozen=True)
class WatchedImage:
    """An image that the watched layers have seen: the keys and values of its prefix, layer by layer."""

    frame: Frame
    positions: Int[Tensor, "1 p ..."]
    memory: Sequence[Pair]
    familiar: bool | None


class HeadReader:
    """Reads the attention heads of the first `count` decoder layers of a backbone, which stays as it is: the copies of
    its layers share every weight, and no layer above them runs.

    Raises ValueError when the backbone was loaded without some of these layers, or one has a sliding window."""

    def __init__(self, backbone: Backbone, count: int):
        model: Any = backbone.module
        language = model.get_decoder()
        loaded, seeing = len(language.layers), whole_sight(model.config)
        if count > loaded:
            raise ValueError(
                f"the attention of {count} decoder layers is to be read, and the MLLM was loaded with {loaded}; "
                "load it again without segmentation_only, or with a higher layer"
            )
        if count > seeing:
            raise ValueError(
                f"decoder layer {seeing} has a sliding window, and every layer that is read must see all that came "
                f"before; read {seeing} layers at most"
            )
        self.backbone, self.count = backbone, count
        layers, rotary = language.layers[:count], language.rotary_emb
        # the prefix runs through the model's own attention, which need not hold all of its square in memory
        self._below = DecoderLayers(layers, rotary)
        self._watched = watched_layers(layers, rotary)

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""
        return self.backbone.heads

    @torch.no_grad()
    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> WatchedImage:
        """See an image once."""
        given = self.backbone.embed_image(image)
        _, memory = self._below.prefix(given.rows, given.positions, given.later[: self.count])
        return WatchedImage(given.frame, given.positions, memory, given.familiar)

    @torch.no_grad()
    def read(self, image: WatchedImage, questions: Sequence[str]) -> HeadMaps:
        """The maps of all questions about an open image, in one pass; b is 1.

        The rows of one layer are in memory at a time, and of these the last token's are kept. Raises QuestionError as
        `Backbone.read` does."""
        asked = self.backbone.embed_questions(questions, image.positions)
        _, q, t = asked.mask.shape
        ends = torch.arange(q, device=asked.mask.device) * t + asked.mask[0].sum(-1) - 1
        tiling, end = self.backbone.tiling, image.positions.shape[1]
        places, hidden, maps = end - tiling.tokens + tiling.places, asked.rows, []
        for watched, pair in zip(self._watched, image.memory, strict=True):
            rows = watched.rows()
            hidden = watched.questions(hidden, asked.positions, asked.mask, [pair], rows)
            assert rows.probabilities is not None
            seen = rows.probabilities[0, :, ends.to(hidden.device)][..., places.to(hidden.device)]
            maps.append(seen.to(self.backbone.device))
        whole = rearrange(torch.stack(maps), "l n q (h w) -> 1 l n q h w", h=self.backbone.grid[0])
        return HeadMaps(whole, self._inside(image.frame)[None].to(whole.device))

    def _inside(self, frame: Frame) -> Bool[Tensor, "h w"]:
        """Cells whose first corner lies on the image: the others show padding alone."""
        rows, columns = (torch.arange(n, dtype=torch.float64) for n in self.backbone.grid)
        corners = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1) - 0.5
        corners = frame.to_image(frame.cells_to_canvas(corners, self.backbone.grid))
        return (corners < corners.new_tensor([frame.width, frame.height])).all(-1)


class AttentionReader:
    """Every decoder layer of a backbone with its attention in sight; the backbone itself stays as it is.

    Layers from the first with a sliding window on are left out: no head can read there, nor would the mask be theirs.
    Raises ValueError when the backbone was loaded without the layers that talk."""

    def __init__(self, backbone: Backbone):
        if not backbone.can_chat:
            raise ValueError(
                "this backbone was loaded with segmentation_only=True, without the layers above the one it reads; "
                "load it again without"
            )
        self.reader = HeadReader(backbone, whole_sight(backbone.module.config))

    def maps(self, image: UInt8[np.ndarray, "h w 3"], questions: Sequence[str]) -> Float[Tensor, "k q gh gw"]:
        """Attention of each question's last token (the start of the answer) to the image, mean over heads, on the CPU.

        `maps[k]` is what decoder layer k (from 0) does with hidden_states[k]: the map with which the head begins that
        reads layer k, since its first layer is a copy of that one. One pass for all questions. Raises QuestionError as
        `Backbone.read` does."""
        return self.reader.read(self.reader.open(image), questions).maps[0].mean(1).cpu()
