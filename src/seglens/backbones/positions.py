"""Rotary positions of the prefix: along one line, or on the three axes of M-RoPE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor


def in_line(before: int, image: int) -> Int[Tensor, " p"]:
    """One position per token: `before` tokens of text, then `image` that stand for the image."""
    return torch.arange(before + image)


def in_space(before: int, grid: tuple[int, int]) -> Int[Tensor, "p 3"]:
    """M-RoPE (Qwen2-VL, arXiv 2409.12191, section 2.1): text has the same time, row and column; an image starts where
    the text ended, stands still in time and spreads over rows and columns."""
    text = torch.arange(before)[:, None].expand(-1, 3)
    time, row, column = torch.meshgrid(torch.zeros(1).long(), *map(torch.arange, grid), indexing="ij")
    image = before + rearrange([time, row, column], "a t h w -> (t h w) a")
    return torch.cat([text, image])


def after(prefix: Int[Tensor, "b p ..."], questions: int, tokens: int) -> Int[Tensor, "b q t ..."]:
    """Questions go on, on every axis, one after the furthest position of the prefix."""
    steps = prefix.flatten(1).amax(1)[:, None] + 1 + torch.arange(tokens, device=prefix.device)
    axes = prefix.shape[2:]
    shape = (len(prefix), questions, tokens, *axes)
    return steps.reshape(len(prefix), 1, tokens, *[1] * len(axes)).expand(shape)


def of_chat(model: Any, inputs: Mapping[str, Tensor]) -> Int[Tensor, "1 n 3"]:
    """Those that a model with M-RoPE gives to a chat; unlike its own forward pass it keeps nothing."""
    arguments = {key: inputs[key] for key in ("input_ids", "image_grid_thw", "mm_token_type_ids")}
    return rearrange(model.model.get_rope_index(**arguments)[0], "a b n -> b n a")
