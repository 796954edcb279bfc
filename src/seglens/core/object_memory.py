"""How much memory objects hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


def bytes_held(*parts: Any) -> int:
    """Bytes of all tensors and arrays in dataclasses, mappings and sequences; what they share is counted once."""
    seen = dict[int, int]()
    for part in parts:
        _add(part, seen)
    return sum(seen.values())


def _add(part: Any, seen: dict[int, int]) -> None:
    if isinstance(part, torch.Tensor):
        storage = part.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    elif isinstance(part, np.ndarray):
        seen[id(part)] = part.nbytes
    elif isinstance(part, Mapping):
        _add(list(part.values()), seen)
    elif isinstance(part, Sequence) and not isinstance(part, str | bytes):
        for one in part:
            _add(one, seen)
    elif dataclasses.is_dataclass(part):
        _add([getattr(part, each.name) for each in dataclasses.fields(part)], seen)
