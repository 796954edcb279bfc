"""Where models compute and in which precision, by the names that users type."""

from __future__ import annotations

import torch

from seglens.core.distributed import Ranks
from seglens.core.names import check_name

AUTO = "auto"  # for a device: a CUDA GPU, Apple's GPU (MPS), or else the CPU; for a precision: as the files are
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def usable_device(name: str | torch.device) -> torch.device:
    """The device of that name, the best one here for "auto"; of several processes, each takes its own "cuda".

    Raises ValueError when this machine does not have it."""
    if not isinstance(name, str | torch.device):
        raise ValueError(f"got {type(name).__name__} for a device; need auto, cpu, cuda or mps")
    if str(name) == AUTO:
        name = _best()
    try:
        device = torch.device(Ranks.here().device(str(name)))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA asserts
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise ValueError(f"device {str(name)!r} cannot be used here ({reason}); try auto, cpu, cuda or mps") from error
    return device


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def precision(name: str | torch.dtype | None, device: torch.device) -> str | torch.dtype:
    """A torch dtype of its short name (fp32, bf16, fp16) or torch's own (bfloat16), or "auto". None is fp32 on a CPU,
    where half precision is slow and coarse, and "auto" elsewhere.

    Raises ValueError for a name that is none of these."""
    if name is None:
        return torch.float32 if device.type == "cpu" else AUTO
    if isinstance(name, torch.dtype) or name == AUTO:
        return name
    long = {str(dtype).removeprefix("torch."): dtype for dtype in PRECISIONS.values()}
    if name not in long:
        check_name(name, (AUTO, *PRECISIONS), "precision")
    return (PRECISIONS | long)[name]
