"""The numbers of one optimiser step, over all its passes on all devices."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor

from seglens.core.text import shortened
from seglens.core.types import Totals
from seglens.features.examples import Example

NAMED = 8  # pictures that an error names


def totals(accelerator: Any, parts: Sequence[Sequence[Example]]) -> Totals:
    """What the losses of the step are averaged over. Every process must call it."""
    counts = [astuple(example.totals()) for part in parts for example in part]
    summed = torch.tensor(counts, dtype=torch.float32, device=accelerator.device).sum(0)
    return Totals(*accelerator.reduce(summed, "sum").tolist())


def added(losses: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The terms of the batches of one pass, name by name."""
    return {name: functools.reduce(torch.add, (terms[name] for terms in losses)) for name in losses[0]}


def summed(accelerator: Any, parts: Sequence[Mapping[str, Tensor]], halt: bool) -> tuple[dict[str, float], bool]:
    """The terms of the whole step, and whether any process got the signal to end. Every process must call it."""
    values = torch.stack([torch.stack([part[name].float() for name in parts[0]]) for part in parts]).sum(0)
    *terms, halts = accelerator.reduce(torch.cat([values, values.new_tensor([float(halt)])]), "sum").tolist()
    return dict(zip(parts[0], terms, strict=True)), halts > 0


def smoothed(before: Mapping[str, float], terms: Mapping[str, float]) -> dict[str, float]:
    return {name: 0.97 * before.get(name, value) + 0.03 * value for name, value in terms.items()}


def infinite_parts(accelerator: Any, numbers: Sequence[int], parts: Sequence[Mapping[str, Tensor]]) -> list[int]:
    """The numbers of the parts of the step, of all processes, that have a term which is not finite. Every process must
    call it."""
    bad = torch.zeros(len(numbers) * accelerator.num_processes, device=accelerator.device)
    for number, terms in zip(numbers, parts, strict=True):
        bad[number] = float(not all(bool(value.isfinite()) for value in terms.values()))
    return accelerator.reduce(bad, "sum").nonzero()[:, 0].tolist()


def infinite_message(step: int, terms: Mapping[str, float], names: Sequence[str]) -> str:
    """`names` are the images of the parts that have a term which is not finite."""
    infinite = ", ".join(name for name, value in terms.items() if not math.isfinite(value))
    return (
        f"step {step}: the loss is no longer a number ({infinite}) on {shortened(names, NAMED, ', ')}; nothing of it "
        "is saved: look at these pictures, or take a smaller lr, and the same command goes on from the last checkpoint"
    )
