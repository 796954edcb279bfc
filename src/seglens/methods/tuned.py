"""Shared by the methods that train an adapter of the MLLM: the reader, the words of request and answer, the losses of
the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from seglens.core.geometry import Frame
from seglens.core.tuning_types import TokenizedAnswer, TrainingFormat, TunedInputs, TunedReadout, Tuning
from seglens.core.types import Embedding, MethodOutput, Totals, Truth
from seglens.methods.base import EncodedImage, Method, mean_over

# the answers of LISA's code, which SELF1E's and UFO's took over; "{}" stands for the segmentation token
LISA_ANSWERS = ("{}.", "It is {}.", "Sure, {}.", "Sure, it is {}.", "Sure, the segmentation result is {}.")
Absent = Literal["skip", "empty"]  # what a target that is not in the image teaches: no mask, or an empty one
TextMean = Literal["answers", "tokens"]  # what the cross-entropy of answers is averaged over


def answers_with(token: str) -> tuple[str, ...]:
    """LISA's answers with a method's segmentation token. The first is the one that is given in evaluation."""
    return tuple(answer.replace("{}", token) for answer in LISA_ANSWERS)


def check_words(config: Any, name: str, token: str) -> None:
    """Raises ValueError when the request of a config has no place for the query, or an answer not one `token`."""
    if config.request.count("{}") != 1:
        raise ValueError(f"{name} got request={config.request!r}; it needs one {{}} where the query goes")
    if not config.answers or any(answer.count(token) != 1 for answer in config.answers):
        raise ValueError(f"{name} got answers={list(config.answers)}; it needs one or more, each with one {token}")


def tuning_of(config: Any, tokens: tuple[str, ...], **changes: Any) -> Tuning:
    """What of the MLLM is trained: the new `tokens`, and what a config's settings of the names of `Tuning` state."""
    names = [field.name for field in fields(Tuning) if hasattr(config, field.name) and field.name != "tokens"]
    return Tuning(tokens, **{name: getattr(config, name) for name in names} | changes)


@runtime_checkable
class TunedReader(Protocol):
    """An MLLM with an adapter, as a method uses it. The MLLM itself never changes: the adapter belongs to a copy that
    shares every weight with it."""

    adapter: nn.Module  # all that is trained, and nothing else
    width: int  # d
    patch_width: int  # v
    grid: tuple[int, int]
    shuffle: int

    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> EncodedImage:
        """Encode an image once, without gradients."""

    def read(self, image: Any, questions: Sequence[str]) -> TunedReadout:
        """All questions about an opened image in one pass, without gradients; b is 1."""

    def teach(self, shown: TunedInputs) -> TunedReadout:
        """With gradients, and with `text_loss`."""

    def recompute(self, on: bool) -> None:
        """Whether `teach` keeps only the inputs of layers, which then run again in the backward pass."""

    def pixels(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 n m"]:
        """The normalised canvas."""

    def frame(self, image: UInt8[np.ndarray, "h w 3"]) -> Frame:
        """Where an image lies on it."""

    def words(self, query: str, answer: str | None, present: bool, why: str | None) -> TokenizedAnswer:
        """A query with its answer in tokens and the explanation `why` after them, or with its refusal; with `answer`, a
        question with that answer in words."""

    def conversation(self, request: str, opening: str, items: Sequence[tuple[str, str]]) -> list[TokenizedAnswer]:
        """Several queries in one conversation, each with the item that answers it."""


class TunedMethod(Method):
    """A method that trains an adapter of the MLLM along with its own parts. `mllm` reads through that adapter."""

    def __init__(self, mllm: TunedReader):
        super().__init__()
        self.adapter = mllm.adapter
        self._mllm = (mllm,)  # in a tuple: the MLLM is not a submodule

    @property
    def training_format(self) -> TrainingFormat | None:
        """The form of its queries in training, where that is not their form in use."""
        return None

    @property
    def mllm(self) -> TunedReader:
        return self._mllm[0]

    @property
    def reader(self) -> TunedReader:
        return self.mllm

    def forward(self, lesson: TunedInputs, embedding: Embedding | None) -> MethodOutput:
        """One training pass: read with gradients, then decode."""
        return self.decode(self.mllm.teach(lesson), embedding)

    def text_loss(self, output: MethodOutput, truth: Truth, totals: Totals) -> Tensor:
        """Cross-entropy of the answers, weighted. `output` has the mean over the tokens of each; averaged over answers,
        or over all of their tokens alike: then long answers weigh more, as in the code of LISA, MLLMSeg, SELF1E and UFO
        (over the tokens of a pass there, of a whole step here)."""
        assert output.text_loss is not None
        loss, answered = output.text_loss, truth.valid | truth.spoken
        if self.config.text_mean == "answers":
            return self.config.text_weight * mean_over(loss[answered], totals.answered)
        if truth.tokens is None:
            raise ValueError("text_mean='tokens' needs Truth.tokens, how many tokens of each answer are learnt")
        return self.config.text_weight * mean_over((loss * truth.tokens)[answered], totals.tokens)

    def with_mask(self, truth: Truth, totals: Totals) -> tuple[Bool[Tensor, "b q"], float]:
        """Which questions have a mask to learn, and over how many its loss is averaged: those with a target and, with
        absent="empty", also those without, whose mask is then empty."""
        if self.config.absent == "empty":
            return truth.valid, totals.valid
        return truth.present & truth.valid, totals.present
