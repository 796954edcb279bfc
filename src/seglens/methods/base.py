"""The contract of a method: a trainable module that turns the states of an MLLM into masks. It depends on no MLLM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from seglens.core.geometry import Frame
from seglens.core.tuning_types import AnswerTemplates, Attention, Refill, Tuning
from seglens.core.types import Embedding, HeadMaps, MethodOutput, Prompt, Totals, Truth


@runtime_checkable
class PromptDecoder(Protocol):
    """The mask decoder as a method uses it."""

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
class EncodedImage(Protocol):
    """An image that an MLLM has encoded once."""

    @property
    def frame(self) -> Frame: ...
    @property
    def familiar(self) -> bool | None: ...


@runtime_checkable
class HeadAttention(Protocol):
    """The attention heads of a frozen MLLM, as a method uses them: those of its first `count` decoder layers, `heads`
    in each."""

    @property
    def heads(self) -> int: ...
    @property
    def count(self) -> int: ...

    def open(self, image: UInt8[np.ndarray, "h w 3"]) -> EncodedImage:
        """Encode an image once."""

    def read(self, image: Any, questions: Sequence[str]) -> HeadMaps:
        """All questions about an opened image in one pass; b is 1."""


class Method(nn.Module, ABC):
    """A trainable head. Its state is exactly the trained weights."""

    config: Any

    @property
    def reader(self) -> Any:
        """Opens images and reads questions for the method; None is the frozen MLLM, read at one layer."""
        return None

    @property
    @abstractmethod
    def mask_side(self) -> int:
        """Side of the square canvas on which masks are compared with the true ones."""

    def precompute(self, read: Any) -> Any:
        """The part of the computation that no question about an image changes: once per image, kept between questions.
        None where there is none."""
        return None

    @abstractmethod
    def decode(self, read: Any, embedding: Embedding | None, precomputed: Any = None) -> MethodOutput:
        """Masks for all questions of all images. `precomputed` is a result of `precompute`."""

    def random_inputs(self, shape: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Random inputs of `forward` in training for "b q" questions, by name; dropout is not among them."""
        return {}

    @abstractmethod
    def losses(self, output: MethodOutput, truth: Truth, totals: Totals | None = None) -> Mapping[str, Tensor]:
        """Named, weighted terms whose sum is the loss, averaged over this batch, or over `totals`."""


class PromptingMethod(Method):
    """A method that draws masks with a promptable mask decoder."""

    _decoder: tuple[PromptDecoder]  # in a tuple: it is no submodule, and its weights are not the method's

    @property
    def decoder(self) -> PromptDecoder:
        return self._decoder[0]

    @property
    def mask_side(self) -> int:
        return self.decoder.mask_side


@runtime_checkable
class BackboneSource(Protocol):
    """A backbone as the builder of a method uses it: `clone_layers` copies from the layer that it reads on, with the
    attention of the layers `copied`."""

    copied: tuple[int, ...]
    width: int
    heads: int
    feed_forward: int

    def clone_layers(self, count: int = 2) -> list: ...
    def head_reader(self, layers: int | None = None) -> HeadAttention: ...
    def adapt(
        self, tuning: Tuning, templates: AnswerTemplates, attention: Attention = "causal", refill: Refill = "none"
    ) -> Any: ...


NUMBERS: dict[str, Callable[[Any], bool]] = {
    "a whole number above 0": lambda value: isinstance(value, int) and value > 0,
    "a number above 0": lambda value: isinstance(value, int | float) and value > 0,
    "a number from 0 to 1": lambda value: isinstance(value, int | float) and 0 <= value <= 1,
}


def check_numbers(config: Any, name: str, kind: str, *settings: str) -> None:
    """Raises ValueError when a setting is not of that kind of `NUMBERS`."""
    for setting in settings:
        value = getattr(config, setting)
        if not NUMBERS[kind](value):
            raise ValueError(f"{name} got {setting}={value!r}; it must be {kind}")


def check_choices(config: Any, name: str) -> None:
    """Raises ValueError when a setting of a Literal type has another value."""
    for setting, hint in get_type_hints(type(config)).items():
        allowed, value = get_args(hint), getattr(config, setting)
        if str(get_origin(hint)) == "typing.Literal" and value not in allowed:
            raise ValueError(f"{name} got {setting}={value!r}; it must be one of {', '.join(map(repr, allowed))}")


def mean_over(values: Tensor, total: float) -> Tensor:
    """The mean of a term's values over `total` masks, questions or answers of a whole step."""
    return values.sum() / max(total, 1)
