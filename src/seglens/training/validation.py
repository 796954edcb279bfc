"""How good a head is while it trains: masks against the truth on the decoder's canvas, without images or an MLLM."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seglens.core.metrics import giou, overlap
from seglens.features.frozen import ExampleIndex, FeatureSource


@torch.no_grad()
def validate(accelerator: Any, model: nn.Module, exam: FeatureSource, images: int) -> dict[str, float]:
    """gIoU and cIoU of the questions of `exam` that have a target, `images` at a time on each device.

    On the canvas and before absence is judged: good for choosing between checkpoints, not for tables (`seglens eval`).
    Every process must call it; each counts its own share of the images once."""
    model.eval()
    mine = list(range(accelerator.process_index, len(exam), accelerator.num_processes))
    sums = torch.zeros(4, dtype=torch.float64)
    # as many passes as the first process has: a model that is cut over devices answers only to all of them
    for start in range(0, -(-len(exam) // accelerator.num_processes), images):
        chosen = [image for image in mine[start : start + images] if exam.questions(image)]
        found = [exam.features(_everything(exam, i)) for i in chosen or [0]]
        batch = type(found[0]).batch(found, accelerator.device)
        output = model(batch.given, batch.embedding)
        if chosen:
            truth = batch.truth
            sums += _sums(_alike(output.mask_logits, truth.masks) > 0, truth.masks > 0.5, truth.present & truth.valid)
    total, n, intersection, union = _gathered(accelerator, sums)
    return {"gIoU": total / max(n, 1), "cIoU": intersection / max(union, 1)}


def _alike(logits: Float[Tensor, "b q _ _"], masks: Float[Tensor, "b q s s"]) -> Float[Tensor, "b q s s"]:
    """On the canvas where masks are compared, if a method draws on another."""
    side = masks.shape[-2:]
    return logits if logits.shape[-2:] == side else F.interpolate(logits, side, mode="bilinear", align_corners=False)


def _everything(exam: FeatureSource, image: int) -> ExampleIndex:
    return ExampleIndex(image, tuple(range(exam.questions(image))))


def _sums(drawn: Bool[Tensor, "b q s s"], truth: Bool[Tensor, "b q s s"], asked: Bool[Tensor, "b q"]) -> Tensor:
    """Sum of IoU, masks, intersection and union."""
    counts = overlap(drawn[asked], truth[asked])
    if not len(counts):
        return torch.zeros(4, dtype=torch.float64)
    pixels = (float(counts.intersection.sum()), float(counts.union.sum()))
    return torch.tensor([giou(counts) * len(counts), len(counts), *pixels], dtype=torch.float64)


def _gathered(accelerator: Any, sums: Tensor) -> list[float]:
    # float32 holds counts of pixels of hundreds of masks exactly enough; MPS has no float64
    return accelerator.reduce(sums.to(accelerator.device, torch.float32), "sum").tolist()
