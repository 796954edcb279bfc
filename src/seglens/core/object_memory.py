"""The memory that objects hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


def bytes_held(*parts: Any) -> int:
    """Bytes of all tensors and arrays in dataclasses, mappings and sequences; shared storage is counted once."""
    sizes = dict[int, int]()
    for part in parts:
        _add(part, sizes)
    return sum(sizes.values())


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
