"""What every backbone is: a frozen MLLM that can be read at one layer, and that still talks as before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from seglens.backbones.layers import DecoderLayers, Pair
from seglens.geometry import Frame
from seglens.types import Readout

LONGEST_QUESTION = 512  # tokens, as in LISA's training


class QuestionError(ValueError):
    """A question that cannot be read: empty, or too long."""


@dataclass(frozen=True)
class OpenImage:
    """An image the backbone has seen: its prefix at the read layer, and the keys and values below it."""

    frame: Frame
    prefix: Float[Tensor, "1 p d"]
    positions: Int[Tensor, "1 p"]
    memory: Sequence[Pair]


class Backbone(ABC):
    """A frozen multimodal LLM. Opening an image costs one partial pass; each question costs only its own tokens."""

    name: str  # where it was loaded from
    revision: str | None
    layer: int  # hidden_states[layer] is what it reads
    depth: int  # decoder layers of the whole model
    grid: tuple[int, int]  # rows and columns of image tokens
    width: int  # hidden width
    feed_forward: int  # width of the language model's MLP
    heads: int

    @abstractmethod
    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> OpenImage:
        """See an image once."""

    @abstractmethod
    def read(self, image: OpenImage, questions: Sequence[str]) -> Readout:
        """Hidden states of all questions about an open image, in one pass.

        Raises QuestionError for an empty question or one of more than 512 tokens."""

    @abstractmethod
    def generate(self, image: UInt8[np.ndarray, "h w 3"], question: str, max_new_tokens: int = 128) -> str:
        """The untouched MLLM's own answer, through its own processor, greedy."""

    @abstractmethod
    def chat_inputs(self, image: UInt8[np.ndarray, "h w 3"], question: str) -> dict[str, Tensor]:
        """What the model's own processor makes of an image and a question: the chat path adds nothing to it."""

    @abstractmethod
    def clone_layers(self, count: int = 2) -> list[DecoderLayers]:
        """Trainable fp32 copies of decoder layers `layer`, `layer + 1`, ...: they continue what `read` gives."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The transformers model itself, frozen."""

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device
