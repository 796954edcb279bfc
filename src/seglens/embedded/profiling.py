"""The cost of a piece of work: seconds, and the memory at its peak."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """`processor` are seconds of all cores together. `peak`, in bytes, is the memory beyond that of the process before;
    None where the system does not report it."""

    seconds: float
    processor: float
    peak: int | None


class Resident:
    """Memory of this process as Linux counts it, in bytes. (psutil has no peak that can be reset.)"""

    @staticmethod
    def reset_peak() -> None:
        """Forget the highest so far."""
        Path("/proc/self/clear_refs").write_text("5")

    @staticmethod
    def now() -> int:
        return Resident._read("VmRSS")

    @staticmethod
    def peak() -> int:
        return Resident._read("VmHWM")

    @staticmethod
    def _read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def measured(work: Callable[[], T], device: torch.device) -> tuple[T, Cost]:
    """The result of `work` and its cost: memory of a GPU by PyTorch's allocator, of a CPU by the resident memory (Linux
    alone)."""
    before = _begin(device)
    start, spent = time.perf_counter(), time.process_time()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds, processor = time.perf_counter() - start, time.process_time() - spent
    peak = None if before is None else _peak(device) - before
    return result, Cost(seconds, processor, peak)


def _begin(device: torch.device) -> int | None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if sys.platform != "linux":
        return None
    # memory that was freed and is still held would be used again, uncounted
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
    Resident.reset_peak()
    return Resident.now()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else Resident.peak()
