"""Is there enough memory? Checked before native code is called: some of it ends the process or prints a trace when it
gets no memory, before an error can be raised.

Only what is certain is counted: the weights as they will be in memory, and a little to work with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from seglens.core.process_limits import address_space_limit

SPARE = 24 * 2**20  # bytes beside weights: with less, native code fails before there is anything to work with
TRAINING = 128 * 2**20  # beside gradients and the optimiser's states: threads, and what a backward pass stores
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # in such files


def check_room(needed: int, what: str, resident: int | None = None, spare: int = SPARE) -> None:
    """Raises MemoryError with the memory that is left and that is needed. `resident` of the bytes (default all) will be
    in this machine's memory, and not only in the process's address space, as a mapped file is."""
    places = [
        (needed, address_space(), "a process may take here (ulimit -v)"),
        (needed if resident is None else resident, free_memory(), "is free on this machine"),
    ]
    for wanted, left, where in places:
        if left is not None and left < wanted + spare:
            raise MemoryError(
                f"{what} need {(wanted + spare) / 1e6:,.0f} MB more, and {left / 1e6:,.0f} MB are left of what {where}"
            )


def address_space() -> int | None:
    """Bytes that this process may still take of its limit (ulimit -v); None where there is none."""
    limit = address_space_limit()
    if limit is None or not psutil.LINUX:  # macOS counts gigabytes that no program took
        return None
    return max(0, limit - psutil.Process().memory_info().vms)


def free_memory() -> int | None:
    """Bytes of memory that can be had without ending others, swap included; None where the system reports none."""
    try:
        return psutil.virtual_memory().available + psutil.swap_memory().free
    except (OSError, psutil.Error):
        return None


def weight_bytes(
    files: list[Path], needless: Callable[[str], bool] = lambda key: False, dtype: torch.dtype | None = None
) -> tuple[int, int]:
    """The bytes of the tensors of safetensors files without those that are `needless`; floating ones in `dtype`, by
    default that of the file. And the bytes that are converted to another precision: the rest may stay a mapped file.
    Zero for a file that is not valid: the code that reads it reports that."""
    try:
        rows = [one for path in files for key, one in _header(path).items() if not needless(key)]
        made = sum(_bytes(one, dtype) for one in rows if _changes(one, dtype))
        return made + sum(_bytes(one, dtype) for one in rows if not _changes(one, dtype)), made
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0, 0


def _header(path: Path) -> Mapping[str, Any]:
    """By the names of tensors, as the format has it: eight bytes with its length, and JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError(f"{path} is cut short")
        head = json.loads(file.read(length))
    return {key: one for key, one in head.items() if key != "__metadata__"}


def _changes(one: Mapping[str, Any], dtype: torch.dtype | None) -> bool:
    return dtype is not None and one["dtype"] in FLOATS and FLOATS[one["dtype"]] != dtype


def _bytes(one: Mapping[str, Any], dtype: torch.dtype | None) -> int:
    if dtype is not None and _changes(one, dtype):
        return math.prod(one["shape"]) * dtype.itemsize
    first, end = one["data_offsets"]
    return int(end - first)
