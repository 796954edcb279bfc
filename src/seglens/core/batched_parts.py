"""Tensors whose first axis counts images, in dataclasses, lists and tuples: joined to a batch, and taken from one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def joined(parts: Sequence[T]) -> T:
    """One batch of all images, in order; nothing is copied for a single part. What is no tensor is taken from the
    first."""
    return parts[0] if len(parts) == 1 else _changed(torch.cat, parts)


def of_image(part: T, k: int) -> T:
    """The batch of image number k alone, in the memory of the whole (`object_memory.compact` copies it)."""
    return _changed(lambda tensors: tensors[0][k : k + 1], [part])


def _changed(change: Callable[[list[torch.Tensor]], torch.Tensor], parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return change(list(parts))
    if isinstance(first, list | tuple):
        return type(first)(_changed(change, some) for some in zip(*parts, strict=True))
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        changed = {name: _changed(change, [getattr(part, name) for part in parts]) for name in names}
        return dataclasses.replace(first, **changed)
    return first
