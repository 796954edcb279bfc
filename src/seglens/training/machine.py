"""How fast a machine computes: measured here in a few seconds, or the published numbers of a named GPU."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from seglens.core.available_memory import free_memory
from seglens.core.names import check_name

SHARE = 0.4  # of published peaks that training reaches: an assumption
MEASURED = 0.6  # of the speed of large matrix products that whole models reach: an assumption
SECONDS = 1.0  # of measurement for each precision, after one product that is not timed
CONTEXT = 1.5e9  # bytes of a GPU for CUDA itself and for fragments: an assumption


@dataclass(frozen=True)
class Machine:
    """`memory`: bytes where a training computes; `half`, `single`: operations per second in bf16 and in fp32 that
    models reach there; `source`: where the two come from, for a person; `cuda`: whether it is a GPU."""

    name: str
    memory: float
    half: float
    single: float
    source: str
    cuda: bool = True


# GiB, and peak TFLOPS of dense matrix products in bf16 (fp32 sums) and in fp32 without TF32, as NVIDIA's datasheets
# and architecture papers state them
PUBLISHED: dict[str, tuple[float, float, float]] = {
    "rtx-3060": (12, 25.6, 12.7),
    "rtx-3090": (24, 71.0, 35.6),
    "rtx-4090": (24, 165.2, 82.6),
    "l4": (24, 121.0, 30.3),
    "l40s": (48, 362.0, 91.6),
    "a100-40": (40, 312.0, 19.5),
    "a100-80": (80, 312.0, 19.5),
    "h100": (80, 989.0, 67.0),
    "h200": (141, 989.0, 67.0),
}


def published(name: str) -> Machine:
    """A GPU by its name. Raises ValueError with the nearest name on a typo."""
    check_name(name, PUBLISHED, "GPU")
    gib, half, single = PUBLISHED[name]
    source = (
        f"NVIDIA's published peaks ({half:g} and {single:g} TFLOPS in bf16 and fp32), of which {SHARE:.0%} is assumed"
    )
    return Machine(name, gib * 2**30 - CONTEXT, SHARE * half * 1e12, SHARE * single * 1e12, source)


def this_machine(device: torch.device, measure: bool = True) -> Machine:
    """The device here. Unmeasured its speed is unknown: 0 operations per second."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"this {device.type}"
    memory = torch.cuda.get_device_properties(device).total_memory - CONTEXT if cuda else float(free_memory() or 0)
    if not measure:
        return Machine(name, memory, 0.0, 0.0, "not measured", cuda)
    # on a CPU the frozen parts and the head compute in fp32, the head under autocast
    half, single = (MEASURED * _speed(device, dtype) for dtype in (torch.bfloat16, torch.float32))
    source = f"measured here on matrix products, of which whole models reach {MEASURED:.0%} (assumed)"
    return Machine(name, memory, half if cuda else single, single, source, cuda)


def _speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of large matrix products."""
    side = 4096 if device.type == "cuda" else 768
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    done, start = 0, 0.0
    while start == 0.0 or time.perf_counter() - start < SECONDS:
        _ = a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start, done = (start, done + 1) if start else (time.perf_counter(), 0)
    return 2 * side**3 * done / (time.perf_counter() - start)
