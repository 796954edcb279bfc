"""What a piece of work takes: seconds, and the memory at its peak."""

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
    """`processor` are seconds of all cores together. `peak`, in bytes, is what was taken beyond what the process held
    before; None where the system does not tell."""

    seconds: float
    processor: float
    peak: int | None


class Resident:
    """Memory of this process as Linux counts it, in bytes."""

    @staticmethod
    def forget() -> None:
        """Of the highest so far."""
        Path("/proc/self/clear_refs").write_text("5")

    @staticmethod
    def now() -> int:
        return Resident._read("VmRSS")

    @staticmethod
    def most() -> int:
        return Resident._read("VmHWM")

    @staticmethod
    def _read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def measured(work: Callable[[], T], device: torch.device) -> tuple[T, Cost]:
    """Do it, and say what it took: on a GPU by PyTorch's allocator, on a CPU by the resident memory (Linux alone)."""
    held = _begin(device)
    start, spent = time.perf_counter(), time.process_time()
    done = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds, processor = time.perf_counter() - start, time.process_time() - spent
    most = None if held is None else _most(device) - held
    return done, Cost(seconds, processor, most)


def _begin(device: torch.device) -> int | None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if sys.platform != "linux":
        return None
    # what was freed and is still held would be used again, unseen
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
    Resident.forget()
    return Resident.now()


def _most(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else Resident.most()
