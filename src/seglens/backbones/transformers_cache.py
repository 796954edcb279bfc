"""Replacements of a transformers cache, and the name under which a version of transformers takes one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]  # keys and values, each "b heads tokens head_dim"
Memory = Pair | Tensor  # what a layer keeps of what came before; of a convolution its inputs, "b width tokens"
NAMES = ("cache", "past_key_values")  # of the argument: since transformers 5.24, and before


@dataclass
class PrefixCache:
    """Takes the place of a transformers cache in one layer while the prefix runs: keeps its keys and values or, of a
    convolution, the last inputs, on which its next outputs depend."""

    memory: Memory | None = None

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> Pair:
        """`_` and `__` are further arguments of some versions of transformers."""
        self.memory = (keys, values)
        return self.memory

    def get_conv_state(self, *_: object, **__: object) -> None:
        """Nothing came before."""

    def update_conv_state(self, inputs: Tensor, *_: object, conv_kernel_size: int, **__: object) -> Tensor:
        """As `update`, of a convolution's inputs, "b width tokens"."""
        self.memory = last(inputs, conv_kernel_size - 1).clone()
        return inputs


@dataclass(frozen=True)
class QuestionCache:
    """Takes the place of a transformers cache in one layer while questions run: the prefix stands before them and
    never changes, so any number of readers may share it."""

    memory: Memory

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> Pair:
        """As `PrefixCache.update`."""
        return torch.cat([self.memory[0], keys], 2), torch.cat([self.memory[1], values], 2)

    def get_conv_state(self, *_: object, **__: object) -> None:
        """No state that a layer may change in place: `update_conv_state` gives what came before."""

    def update_conv_state(self, inputs: Tensor, *_: object, conv_kernel_size: int, **__: object) -> Tensor:
        """As `PrefixCache.update_conv_state`; the layer drops the outputs for what came before."""
        assert isinstance(self.memory, Tensor)
        return torch.cat([last(self.memory, conv_kernel_size - 1), inputs], -1)


def last(inputs: Tensor, count: int) -> Tensor:
    """The last `count` inputs of a convolution, or all where there are fewer: zeros stand before them."""
    return inputs[..., max(0, inputs.shape[-1] - count) :]


def as_cache(module: nn.Module, held: Any) -> dict[str, Any]:
    """The argument by which this layer or model takes `held` for its cache.

    Raises ImportError when the installed transformers has yet another name for it."""
    return {_name(type(module).__name__, type(module).forward): held}


@cache
def _name(kind: str, forward: Callable[..., Any]) -> str:
    parameters = inspect.signature(forward).parameters
    name = next((name for name in NAMES if name in parameters), None)
    if name is None:
        raise ImportError(
            f"{kind} of the installed transformers takes no cache as {' or '.join(NAMES)}; install the "
            "version that was tested, which `seglens doctor` names"
        )
    return name
