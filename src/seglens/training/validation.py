"""The quality of a head while it trains: masks against the truth on the canvas of the method."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seglens.core.metrics import giou, overlap
from seglens.features.examples import ExampleSource, batches


@torch.no_grad()
def validate(accelerator: Any, model: nn.Module, source: ExampleSource, images: int) -> dict[str, float]:
    """gIoU and cIoU of the questions of `source` that have a target, `images` at a time on each device.

    On the canvas and before absence is judged: good for choosing between checkpoints, not for tables (`seglens eval`).
    Every process must call it; each counts its own share of the images once."""
    model.eval()
    mine = list(range(accelerator.process_index, len(source), accelerator.num_processes))
    sums = torch.zeros(4, dtype=torch.float64)
    # as many passes as the first process has: a model that is divided over devices runs only on all of them
    for start in range(0, -(-len(source) // accelerator.num_processes), images):
        chosen = [image for image in mine[start : start + images] if source.questions(image)]
        examples = [source.example(i, range(source.questions(i))) for i in chosen or [0]]
        for batch in batches(examples, accelerator.device):
            output = model(batch.inputs, batch.embedding)
            if chosen:
                masks, asked = batch.truth.masks, batch.truth.present & batch.truth.valid
                sums += _sums(_alike(output.mask_logits, masks) > 0, masks > 0.5, asked)
    total, n, intersection, union = _summed(accelerator, sums)
    return {"gIoU": total / max(n, 1), "cIoU": intersection / max(union, 1)}


def _alike(logits: Float[Tensor, "b q _ _"], masks: Float[Tensor, "b q s s"]) -> Float[Tensor, "b q s s"]:
    """On the canvas where masks are compared, if a method draws on another."""
    side = masks.shape[-2:]
    return logits if logits.shape[-2:] == side else F.interpolate(logits, side, mode="bilinear", align_corners=False)


def _sums(masks: Bool[Tensor, "b q s s"], truth: Bool[Tensor, "b q s s"], asked: Bool[Tensor, "b q"]) -> Tensor:
    """Sum of IoU, masks, intersection and union."""
    counts = overlap(masks[asked], truth[asked])
    if not len(counts):
        return torch.zeros(4, dtype=torch.float64)
    pixels = (float(counts.intersection.sum()), float(counts.union.sum()))
    return torch.tensor([giou(counts) * len(counts), len(counts), *pixels], dtype=torch.float64)


def _summed(accelerator: Any, sums: Tensor) -> list[float]:
    # float32 holds counts of pixels of hundreds of masks exactly enough; MPS has no float64
    return accelerator.reduce(sums.to(accelerator.device, torch.float32), "sum").tolist()
