"""Prompt sets of different size in one batch: tokens that do not exist for the others.

SAM has no padding: a void token would be attended to. Hooks on the attentions that read tokens take the mask of the
current call. They are part of the decoder (copies carry them) and read a context variable, so that threads never mix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor, nn

_HIDDEN: ContextVar[Tensor | None] = ContextVar("hidden prompt tokens", default=None)


def watch_prompts(decoder: Any) -> None:
    """Let the two attentions that read tokens (tokens to tokens, image to tokens) take the mask of the current call."""
    for layer in decoder.transformer.layers:
        for reader in (layer.self_attn, layer.cross_attn_image_to_token):
            reader.register_forward_pre_hook(_hide_prompts, with_kwargs=True)


def _hide_prompts(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    hidden = _HIDDEN.get()
    if hidden is None:
        return None
    query = kwargs["query"] if "query" in kwargs else args[0]
    return args, {**kwargs, "attention_similarity": hidden.to(query.dtype)}


@contextmanager
def hiding(keep: Bool[Tensor, "b q n"] | None, outputs: int) -> Iterator[None]:
    """While this lasts, prompt tokens where `keep` is false are hidden; `outputs` tokens of SAM's own stand before."""
    if keep is None or bool(keep.all()):
        yield
        return
    visible = torch.cat([keep.new_ones(*keep.shape[:2], outputs), keep], -1)
    blocked = torch.zeros(visible.shape, device=keep.device).masked_fill(~visible, torch.finfo(torch.bfloat16).min)
    token = _HIDDEN.set(rearrange(blocked, "b q n -> (b q) 1 1 n"))
    try:
        yield
    finally:
        _HIDDEN.reset(token)
