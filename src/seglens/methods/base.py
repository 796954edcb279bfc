"""What every method is: a trainable module that turns what an MLLM says into masks, and knows no MLLM by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from seglens.core.geometry import Frame
from seglens.core.types import (
    AnswerTemplates,
    Attention,
    Embedding,
    HeadMaps,
    MethodOutput,
    Practice,
    Prompt,
    Reading,
    Refill,
    Shown,
    Totals,
    Truth,
    Tuning,
    Words,
)


@runtime_checkable
class PromptDecoder(Protocol):
    """The mask decoder as a method sees it."""

    width: int

    @property
    def mask_side(self) -> int: ...
    def positions(self, points: Tensor) -> Tensor: ...
    def trainable_decoder(self) -> nn.Module: ...
    def decode(
        self, embedding: Embedding, prompts: Tensor, keep: Tensor | None = None, decoder: nn.Module | None = None
    ) -> Tensor: ...
    def answer(self, embedding: Embedding, prompts: Sequence[Prompt]) -> Tensor: ...


@runtime_checkable
class SeenImage(Protocol):
    """An image that was seen once."""

    @property
    def frame(self) -> Frame: ...
    @property
    def familiar(self) -> bool | None: ...


@runtime_checkable
class TunedReader(Protocol):
    """An MLLM with an adapter, as a method sees it. The MLLM itself is never touched: the adapter lives in a copy that
    shares every weight with it."""

    adapter: nn.Module  # all that is trained, by itself
    width: int  # d
    patch_width: int  # v
    grid: tuple[int, int]
    shuffle: int

    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> SeenImage:
        """See an image once, without gradients."""

    def read(self, image: Any, questions: Sequence[str]) -> Reading:
        """All questions about an opened image in one pass, without gradients; b is 1."""

    def teach(self, shown: Shown) -> Reading:
        """With gradients, and with `text_loss`."""

    def pixels(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 n n"]:
        """The normalised canvas."""

    def frame(self, image: UInt8[np.ndarray, "h w 3"]) -> Frame:
        """Where an image lies on it."""

    def words(self, query: str, answer: str | None, present: bool, why: str | None) -> Words:
        """A query with its answer in tokens, and `why` behind them, or its refusal; with `answer`, a question that is
        answered so."""

    def conversation(self, request: str, opening: str, items: Sequence[tuple[str, str]]) -> list[Words]:
        """Queries, each with the item that answers it, in one conversation."""


@runtime_checkable
class HeadAttention(Protocol):
    """The attention heads of a frozen MLLM, as a method sees them: those of its first `count` decoder layers, `heads`
    in each."""

    @property
    def heads(self) -> int: ...
    @property
    def count(self) -> int: ...

    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> SeenImage:
        """See an image once."""

    def read(self, image: Any, questions: Sequence[str]) -> HeadMaps:
        """All questions about an opened image in one pass; b is 1."""


class Method(nn.Module, ABC):
    """A trainable head. Its state is exactly what was trained."""

    config: Any

    @property
    def reader(self) -> Any:
        """What opens images and reads questions for it; None is the frozen MLLM, read at one layer."""
        return None

    @property
    @abstractmethod
    def mask_side(self) -> int:
        """Side of the square canvas on which its masks are compared with the truth."""

    def precompute(self, read: Any) -> Any:
        """What no question about an image changes, kept between questions: once per image. None where there is nothing
        to keep."""
        return None

    @abstractmethod
    def decode(self, read: Any, embedding: Embedding | None, precomputed: Any = None) -> MethodOutput:
        """Masks for all questions of all images. `precomputed` is a result of `precompute`."""

    def random_inputs(self, shape: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """What `forward` draws at random in training for "b q" questions, other than dropout, by name."""
        return {}

    @abstractmethod
    def losses(self, output: MethodOutput, truth: Truth, totals: Totals | None = None) -> Mapping[str, Tensor]:
        """Named, weighted terms whose sum is the loss, averaged over this batch, or over `totals`."""


class PromptingMethod(Method):
    """A method whose masks a promptable mask decoder draws."""

    _decoder: tuple[PromptDecoder]  # in a tuple: it is no submodule, and its weights are not the method's

    @property
    def decoder(self) -> PromptDecoder:
        return self._decoder[0]

    @property
    def mask_side(self) -> int:
        return self.decoder.mask_side


class TunedMethod(Method):
    """A method that trains an adapter of the MLLM along with its own parts. `mllm` reads through that adapter."""

    def __init__(self, mllm: TunedReader):
        super().__init__()
        self.adapter = mllm.adapter
        self._mllm = (mllm,)  # in a tuple: the MLLM is not a submodule

    @property
    def practice(self) -> Practice | None:
        """How it is taught, where that is not how it is asked later."""
        return None

    @property
    def mllm(self) -> TunedReader:
        return self._mllm[0]

    @property
    def reader(self) -> TunedReader:
        return self.mllm

    def forward(self, given: Shown, embedding: Embedding | None) -> MethodOutput:
        """One training pass: read with gradients, then decode."""
        return self.decode(self.mllm.teach(given), embedding)


@runtime_checkable
class BackboneSource(Protocol):
    """A backbone as the builder of a method sees it."""

    width: int
    heads: int
    feed_forward: int

    def clone_layers(self, count: int = 2) -> list: ...
    def watch(self, layers: int | None = None) -> HeadAttention: ...
    def adapt(
        self, tuning: Tuning, speech: AnswerTemplates, attention: Attention = "causal", refill: Refill = "none"
    ) -> Any: ...


def check_choices(config: Any, name: str) -> None:
    """Raises ValueError when a setting whose type lists its values has another."""
    for setting, hint in get_type_hints(type(config)).items():
        allowed, value = get_args(hint), getattr(config, setting)
        if str(get_origin(hint)) == "typing.Literal" and value not in allowed:
            raise ValueError(f"{name} got {setting}={value!r}; it must be one of {', '.join(map(repr, allowed))}")


def spread(values: Tensor, total: float) -> Tensor:
    """The mean of a term's values over `total` masks, questions or answers of a whole step."""
    return values.sum() / max(total, 1)


TextMean = Literal["answers", "tokens"]


def text_term(loss: Tensor, truth: Truth, totals: Totals, mean: TextMean) -> Tensor:
    """Cross-entropy of the answers, given as the mean over the tokens of each, averaged over answers or over all of
    their tokens alike: then long answers weigh more, as in the code of LISA, MLLMSeg, SELF1E and UFO (over the tokens
    of a pass there, of a whole step here)."""
    asked = truth.valid | truth.spoken
    if mean == "answers":
        return spread(loss[asked], totals.answered)
    if truth.tokens is None:
        raise ValueError("text_mean='tokens' needs Truth.tokens, how many tokens of each answer are learnt")
    return spread((loss * truth.tokens)[asked], totals.tokens)


def masked(truth: Truth, totals: Totals, absent: str) -> tuple[Bool[Tensor, "b q"], float]:
    """Which questions are taught a mask, and over how many that is averaged: those with a target and, with "empty",
    also those without, whose mask is then empty."""
    if absent == "empty":
        return truth.valid, totals.valid
    return truth.present & truth.valid, totals.present
