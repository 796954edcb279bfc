"""Keypoints, metrics and losses against loops over maps, points and masks: `python benchmarks/loops.py`.

The loops do the same arithmetic in the way in which the papers' code goes about it: one map, one point, one mask after
the other, a histogram for each mask's intersection and union. Both sides must give the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from measure import Ratio, Report, machine, medians, options
from torch import Tensor

from seglens.core.metrics import overlap
from seglens.methods.keypoints import EPSILON, guarded_newton_step, suppress
from seglens.methods.losses import mask_terms

KEYPOINTS, RADIUS = 16, 4.0


@dataclass(frozen=True)
class Load:
    """How many maps of how many cells, and how many masks of how many pixels."""

    maps: int
    cells: int
    masks: int
    height: int
    width: int
    canvas: int


LOADS = {
    "small": Load(48, 24, 16, 480, 640, 256),
    "tiny": Load(3, 8, 3, 20, 30, 16),
    "7b": Load(480, 24, 160, 480, 640, 256),
}


def batched_points(heat: Tensor) -> tuple[Tensor, Tensor]:
    cells, scores, _ = suppress(heat, KEYPOINTS, RADIUS)
    return guarded_newton_step(heat, cells), scores


def looped_points(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Point after point: take the strongest cell, move it to the peak of a parabola, erase what is near."""
    every, strengths = [], []
    for one in heat:
        rest, points, scores, top = one.clone(), [], [], float(one.max())
        rows, columns = torch.meshgrid(*(torch.arange(n, device=one.device) for n in one.shape), indexing="ij")
        for _ in range(min(KEYPOINTS, one.numel())):
            at = int(rest.argmax())
            y, x = divmod(at, one.shape[1])
            scores.append(float(rest[y, x]))
            points.append(newton(one, x, y, top))
            rest[(rows - y) ** 2 + (columns - x) ** 2 <= RADIUS**2] = 0
        every.append(points)
        strengths.append(scores)
    return heat.new_tensor(every), heat.new_tensor(strengths)


def newton(one: Tensor, x: int, y: int, top: float) -> tuple[float, float]:
    """S1.2 of LENS at one cell, with the guards of `guarded_newton_step`."""
    height, width = one.shape

    def v(dx: int, dy: int) -> float:
        return float(one[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]) / max(top, 1e-12)

    gx, gy = 0.5 * (v(1, 0) - v(-1, 0)), 0.5 * (v(0, 1) - v(0, -1))
    a = v(1, 0) - 2 * v(0, 0) + v(-1, 0) + EPSILON
    d = v(0, 1) - 2 * v(0, 0) + v(0, -1) + EPSILON
    c = 0.25 * (v(1, 1) + v(-1, -1) - v(-1, 1) - v(1, -1))
    determinant = a * d - c * c
    if not (a < 0 and d < 0 and determinant > EPSILON):
        return float(x), float(y)
    step = -(d * gx - c * gy) / determinant, -(a * gy - c * gx) / determinant
    sx, sy = (min(max(s, -1.0), 1.0) for s in step)
    return min(max(x + sx, 0.0), width - 1.0), min(max(y + sy, 0.0), height - 1.0)


def batched_counts(masks: Tensor, truth: Tensor) -> Tensor:
    counts = overlap(masks, truth)
    return torch.stack([counts.intersection, counts.union], -1)


def looped_counts(masks: Tensor, truth: Tensor) -> Tensor:
    """Histograms over the two classes, mask after mask."""
    rows = []
    for one, other in zip(masks, truth, strict=True):
        mask, true = one.int().flatten(), other.int().flatten()
        shared, areas = mask[mask == true].float(), [part.float() for part in (mask, true)]
        inside = torch.histc(shared, bins=2, min=0, max=1)
        total = sum(torch.histc(area, bins=2, min=0, max=1) for area in areas)
        rows.append(torch.stack([inside, total - inside], -1)[1])
    return torch.stack(rows).long()


def batched_loss(logits: Tensor, target: Tensor) -> Tensor:
    return torch.stack(list(mask_terms(logits, target).values()), -1)


def looped_loss(logits: Tensor, target: Tensor, scale: float = 1000.0, eps: float = 1e-6) -> Tensor:
    rows = []
    for one, true in zip(logits, target, strict=True):
        s, t = one.sigmoid().flatten(), true.flatten()
        shared = 2 * (s / scale * t).sum()
        dice = 1 - (shared + eps) / ((s / scale).sum() + (t / scale).sum() + eps)
        rows.append(torch.stack([F.binary_cross_entropy_with_logits(one, true), dice]))
    return torch.stack(rows)


def blobs(load: Load, device: str) -> Tensor:
    """Maps with a few hills each, on a little noise: no two cells are alike."""
    side, n = load.cells, load.maps
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(n, 5, 2, generator=generator) * side
    at = torch.stack(torch.meshgrid(*(torch.arange(side),) * 2, indexing="xy"), -1).reshape(-1, 2)
    hills = (-(at[None, None] - centres[:, :, None]).square().sum(-1) / (side / 4)).exp().sum(1)
    return (hills + 0.01 * torch.rand(n, side * side, generator=generator)).reshape(n, side, side).to(device)


Pair = tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...]]


def pairs(load: Load, device: str) -> dict[str, Pair]:
    generator = torch.Generator().manual_seed(1)
    masks, truth = (
        torch.rand(load.masks, load.height, load.width, generator=generator).to(device) > share for share in (0.4, 0.6)
    )
    logits, target = (
        torch.randn(load.masks, load.canvas, load.canvas, generator=generator).to(device) for _ in range(2)
    )
    return {
        f"keypoints of {load.maps} maps": (batched_points, looped_points, (blobs(load, device),)),
        f"counts of {load.masks} masks": (batched_counts, looped_counts, (masks, truth)),
        f"losses of {load.masks} masks": (batched_loss, looped_loss, (logits, target.sigmoid())),
    }


def apart(one: Any, other: Any) -> float:
    """The largest difference."""
    both = zip(*(x if isinstance(x, tuple) else (x,) for x in (one, other)), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in both)


def compare(size: str, device: str, rounds: int, threads: int) -> Report:
    rows, ratios, notes = dict[str, float](), list[Ratio](), list[str]()
    for what, (batched, looped, inputs) in pairs(LOADS[size], device).items():
        difference = apart(batched(*inputs), looped(*inputs))
        if difference > 1e-3:
            raise ValueError(f"{what}: the loop gives other numbers, by up to {difference:.2g}; one of both is wrong")
        flows = {"batched": lambda b=batched, g=inputs: b(*g), "looped": lambda w=looped, g=inputs: w(*g)}
        spent = medians(flows, device, rounds)
        rows |= {f"{what}, {how}": 1e3 * seconds for how, seconds in spent.items()}
        ratios.append(Ratio(f"{what} faster than in loops", spent["looped"] / spent["batched"]))
        notes.append(f"{what}: largest difference {difference:.1e}")
    return Report("batches against loops", size, "ms", rows, ratios, notes, machine(device, threads))


def main(arguments: Sequence[str] | None = None) -> None:
    settings = options(__doc__ or "").parse_args(arguments)
    torch.set_num_threads(settings.threads)
    compare(settings.size, settings.device, settings.rounds, settings.threads).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
