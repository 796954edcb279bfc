"""How LISA (arXiv 2308.00692) and its like answer a question, on the same frozen parts: the yardstick of speed.

The whole MLLM reads image and question and writes its answer word by word; the last hidden state of its [SEG] token,
through two linear layers, is the one prompt of SAM's mask decoder. Weights are random: only time is asked for.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from seglens.backbones import Backbone
from seglens.core.geometry import Frame
from seglens.core.types import Embedding
from seglens.decoders import MaskDecoder

ANSWER = 7  # tokens of "Sure, it is [SEG]." in LLaMA's vocabulary, with the end
SEG = 4  # which of them is [SEG], from 0


class LisaStyle:
    """A MLLM that can talk and a mask decoder, used as LISA uses them."""

    def __init__(self, backbone: Backbone, decoder: MaskDecoder):
        self.backbone, self.decoder = backbone, decoder
        width, placement = backbone.width, {"device": backbone.device, "dtype": backbone.module.dtype}
        self.project = nn.Sequential(
            nn.Linear(width, width, **placement), nn.ReLU(), nn.Linear(width, decoder.width, **placement)
        )

    def see(self, image: np.ndarray) -> Embedding:
        """SAM's image encoder."""
        return self.decoder.encode(image, Frame(*image.shape[:2]))

    @torch.no_grad()
    def ask(self, image: np.ndarray, question: str, embedding: Embedding) -> np.ndarray:
        """The mask at the image's own size."""
        token = self.answer(image, question)
        prompt = self.project(token)[None, None].to(self.decoder.module.dtype)
        logits = self.decoder.decode(embedding, prompt)
        return (Frame(*image.shape[:2]).to_image_logits(logits[0]) > 0).cpu().numpy()

    def answer(self, image: np.ndarray, question: str) -> Tensor:
        """Write the answer with a key-value cache, greedily. Returns the [SEG] token's last hidden state ("1 d")."""
        inputs = self.backbone.chat_inputs(image, question)
        output = self.backbone.module.generate(
            **inputs,
            max_new_tokens=ANSWER,
            min_new_tokens=ANSWER,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
        return output.hidden_states[SEG][-1][:, -1]
