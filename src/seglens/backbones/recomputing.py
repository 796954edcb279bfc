"""Gradient checkpointing (arXiv 1604.06174): layers keep their inputs alone and run again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensor
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What the function returns; its activations are computed again in the backward pass, with the same random numbers.

    Without gradients the function just runs. Fake tensors have no random numbers to keep."""
    if not torch.is_grad_enabled():
        return function(*arguments, **options)
    fake = any(isinstance(one, FakeTensor) for one in arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=not fake, **options)


def recompute_layers(layers: Iterable[nn.Module], on: bool) -> None:
    """Let layers that another model calls be recomputed, or no longer. (transformers' own switch needs the whole model
    in training mode, which would also switch on its dropout.)"""
    for layer in layers:
        vars(layer).pop("forward", None)  # the class's own is what remains
        if on:
            layer.forward = partial(recomputed, layer.forward)
