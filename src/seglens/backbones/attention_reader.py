"""The attention maps of every layer of a backbone, as they guide the choice of the layer to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from seglens.backbones.backbone import Backbone


@final
class AttentionReader:
    """Gives the attention of every decoder layer of a backbone, which itself stays as it is.

    Layers from the first with a sliding window on are left out: no head can read there, nor would the mask be theirs.
    Raises ValueError when the backbone was loaded without the layers of the chat."""

    def __init__(self, backbone: Backbone):
        if not backbone.can_chat:
            raise ValueError(
                "this backbone was loaded with segmentation_only=True, without the layers above the one it reads; "
                "load it again without"
            )
        self.reader = backbone.head_reader(backbone.mllm.unlimited_layers)

    def maps(self, image: UInt8[np.ndarray, "h w 3"], questions: Sequence[str]) -> Float[Tensor, "k q gh gw"]:
        """Attention of each question's last token (the start of the answer) to the image, mean over heads, on the CPU.

        `maps[k]` is what decoder layer k (from 0) does with hidden_states[k]: the map with which the head begins that
        reads layer k, since its first layer is a copy of that one; zeros where layer k is a convolution. One pass for
        all questions. Raises QuestionError as `Backbone.read` does."""
        return self.reader.read(self.reader.open(image), questions).maps[0].mean(1).cpu()
