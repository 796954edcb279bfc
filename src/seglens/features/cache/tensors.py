"""Features as named tensors and back: in their own precision, in another, or as int8 with scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from seglens.core.types import Embedding
from seglens.features.cache.fingerprint import CacheError
from seglens.features.frozen import Features, QuestionFeatures

SCALE = ".scale"
STEPS = 127  # of a signed byte, symmetric about 0
CASTS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TensorLayout:
    """What is the same for all images of a fixed size, and is therefore stored once."""

    prefix_positions: Int[Tensor, "p ..."]
    image_tokens: Int[Tensor, " i"]
    grid: tuple[int, int]

    def same(self, other: TensorLayout) -> bool:
        return (
            self.grid == other.grid
            and torch.equal(self.prefix_positions, other.prefix_positions)
            and torch.equal(self.image_tokens, other.image_tokens)
        )


@dataclass(frozen=True)
class PackedTensors:
    """An image's tensors by name, and the precision of each in the frozen parts (`spoken`; int8 returns to it)."""

    tensors: dict[str, Tensor]
    spoken: dict[str, str]
    layout: TensorLayout


def pack(features: Features, dtype: str) -> PackedTensors:
    """Raises CacheError on NaN or infinity, also where only the narrower type makes one."""
    questions, embedding = features.questions, features.embedding
    floats = {"prefix": features.prefix, "rows": torch.cat([one.rows for one in questions]), "coarse": embedding.coarse}
    floats |= {f"fine.{level}": finer for level, finer in enumerate(embedding.fine)}
    tensors = {
        "lengths": torch.tensor([len(one.rows) for one in questions]),
        "positions": torch.cat([one.positions for one in questions]),
        "masks": torch.stack([one.mask for one in questions]),
        "cells": torch.stack([one.cells for one in questions]),
        "present": torch.tensor([one.present for one in questions]),
    }
    for name, tensor in floats.items():
        _finite(name, tensor, "check the weights and the precision of the frozen part")
        tensors |= _stored(name, tensor, dtype)
    spoken = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in floats.items()}
    layout = TensorLayout(features.prefix_positions.cpu(), features.image_tokens.cpu(), features.grid)
    return PackedTensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, spoken, layout)


def unpack(
    tensors: Mapping[str, Tensor], spoken: Mapping[str, str], layout: TensorLayout, questions: Sequence[int]
) -> Features:
    """Some questions about an image. Nothing is copied; only what is stored as int8 is computed back."""

    def stored(name: str, rows: slice = slice(None)) -> Tensor:
        if name + SCALE not in tensors:
            return tensors[name][rows]
        return dequantise(tensors[name][rows], tensors[name + SCALE][rows], getattr(torch, spoken[name]))

    ends = [0, *tensors["lengths"].cumsum(0).tolist()]
    fine = tuple(stored(f"fine.{level}") for level in range(sum(name.startswith("fine.") for name in spoken)))
    features = tuple(
        QuestionFeatures(
            rows=stored("rows", slice(ends[k], ends[k + 1])),
            positions=tensors["positions"][ends[k] : ends[k + 1]],
            mask=tensors["masks"][k],
            cells=tensors["cells"][k],
            present=bool(tensors["present"][k]),
        )
        for k in questions
    )
    return Features(
        stored("prefix"),
        layout.prefix_positions,
        layout.image_tokens,
        layout.grid,
        Embedding(stored("coarse"), fine),
        features,
    )


def quantise(values: Float[Tensor, "*axes"], axis: int) -> tuple[Int8[Tensor, "*axes"], Float[Tensor, "*ones"]]:
    """Bytes, and along `axis` one scale: the largest magnitude is 127 of them. Off by at most half a scale."""
    values = values.float()
    scale = (values.abs().amax(axis, keepdim=True) / STEPS).clamp(min=torch.finfo(torch.float32).tiny)
    return (values / scale).round().clamp(-STEPS, STEPS).to(torch.int8), scale


def dequantise(
    stored: Int8[Tensor, "*axes"], scale: Float[Tensor, "*ones"], dtype: torch.dtype
) -> Float[Tensor, "*axes"]:
    """The inverse of `quantise`, in `dtype`."""
    return (stored * scale).to(dtype)


def _stored(name: str, tensor: Tensor, dtype: str) -> dict[str, Tensor]:
    if dtype == "auto":
        return {name: tensor}
    if dtype == "int8":  # a token's row has its own scale, and so has a position of a map (1 c e e)
        values, scale = quantise(tensor, -1 if tensor.ndim == 2 else 1)
        return {name: values, name + SCALE: scale}
    cast = tensor.to(CASTS[dtype])
    _finite(name, cast, f"{dtype} cannot hold them: store with --dtype auto or bf16")
    return {name: cast}


def _finite(name: str, tensor: Tensor, remedy: str) -> None:
    bad = int(tensor.isfinite().logical_not().sum())
    if bad:
        raise CacheError(f"{name} holds {bad} values that are NaN or infinite, of {tensor.numel()}; {remedy}")
