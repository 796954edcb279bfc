"""The attention that a frozen MLLM itself pays to the image, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from seglens.backbones.base import Backbone
from seglens.backbones.depth import whole_sight
from seglens.backbones.layers import DecoderLayers, watched_layers


class Watch:
    """Every decoder layer of a backbone with its attention in sight; the backbone itself stays as it is.

    Layers from the first with a sliding window on are left out: no head can read there, nor would the mask be theirs.
    Raises ValueError when the backbone was loaded without the layers that talk."""

    def __init__(self, backbone: Backbone):
        if not backbone.can_chat:
            raise ValueError(
                "this backbone was loaded with segmentation_only=True, without the layers above the one it reads; "
                "load it again without"
            )
        self.backbone = backbone
        model: Any = backbone.module
        language = model.get_decoder()
        layers, rotary = language.layers[: whole_sight(model.config)], language.rotary_emb
        # the prefix runs through the model's own attention, which need not hold all of its square in memory
        self._own = [DecoderLayers([layer], rotary) for layer in layers]
        self._watched = watched_layers(layers, rotary)

    @torch.no_grad()
    def maps(self, image: UInt8[np.ndarray, "h w 3"], questions: Sequence[str]) -> Float[Tensor, "k q gh gw"]:
        """Attention of each question's last token (the start of the answer) to the image, mean over heads, on the CPU.

        `maps[k]` is what decoder layer k (from 0) does with hidden_states[k]: the map with which the head begins that
        reads layer k, since its first layer is a copy of that one. One pass for all questions; the rows of one layer
        are in memory at a time. Raises QuestionError as `Backbone.read` does."""
        given = self.backbone.embed_image(image)
        asked = self.backbone.embed_questions(questions, given.positions)
        _, q, t = asked.mask.shape
        ends = torch.arange(q, device=asked.mask.device) * t + asked.mask[0].sum(-1) - 1
        prefix, hidden, maps = given.rows, asked.rows, []
        tiling, end = self.backbone.tiling, prefix.shape[1]
        places = end - tiling.tokens + tiling.places
        for n, (own, watched) in enumerate(zip(self._own, self._watched, strict=True)):
            prefix, memory = own.prefix(prefix, given.positions, given.later[n : n + 1])
            rows = watched.rows()
            hidden = watched.questions(hidden, asked.positions, asked.mask, memory, rows)
            assert rows.probabilities is not None
            seen = rows.probabilities[0, :, ends.to(hidden.device)][..., places.to(hidden.device)]
            maps.append(seen.mean(0).cpu())
        return rearrange(torch.stack(maps), "k q (gh gw) -> k q gh gw", gh=self.backbone.grid[0])
