"""The memory that objects hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")


def bytes_held(*parts: Any) -> int:
    """Bytes of all tensors and arrays in dataclasses, mappings and sequences; shared storage is counted once."""
    sizes = dict[int, int]()
    for part in parts:
        _add(part, sizes)
    return sum(sizes.values())


def compact(part: T) -> T:
    """The same dataclasses, lists and tuples, with copies of the tensors that show only a part of a larger storage:
    that would stay in memory as long as any of its parts."""
    if isinstance(part, torch.Tensor):
        return part if part.numel() * part.itemsize == part.untyped_storage().nbytes() else part.clone()  # type: ignore[return-value]
    if isinstance(part, list | tuple):
        return type(part)(map(compact, part))
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        values = {each.name: getattr(part, each.name) for each in dataclasses.fields(part) if each.init}
        changed = {name: new for name, value in values.items() if (new := compact(value)) is not value}
        return dataclasses.replace(part, **changed) if changed else part
    return part


def _add(part: Any, sizes: dict[int, int]) -> None:
    if isinstance(part, torch.Tensor):
        storage = part.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    elif isinstance(part, np.ndarray):
        sizes[id(part)] = part.nbytes
    elif isinstance(part, Mapping):
        _add(list(part.values()), sizes)
    elif isinstance(part, Sequence) and not isinstance(part, str | bytes):
        for one in part:
            _add(one, sizes)
    elif dataclasses.is_dataclass(part):
        _add([getattr(part, each.name) for each in dataclasses.fields(part)], sizes)
