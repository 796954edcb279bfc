"""The SAM stage: points and boxes on objects, boxes on parts; the encoder also learns foreground, centres and kinds."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import SamModel

from seglens.embedded.stage import Budget, Stage, as_tensor, half_precision, scene_numbers
from seglens.embedded.symbols import CONCEPT_INDEX, PART_INDEX, symbols
from seglens.embedded.vision_stage import pixels
from seglens.world.world import SIZE, Scene, World

PROMPTS = 4  # per image
KINDS = ("1 point", "1 point", "2 points", "3 points", "6 points", "box", "box")
MASK = SIZE // 4
CELLS = 16
LEAST_PIXELS = 150


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one kind for a batch of images, and the masks that answer them."""

    masks: Float[Tensor, "b q h w"]
    points: Float[Tensor, "b q n 2"] | None
    labels: Tensor | None
    boxes: Float[Tensor, "b q 4"] | None


def _targets(scene: Scene, rng: random.Random, parts: bool) -> list[np.ndarray]:
    whole = [scene.mask(t) for t in scene.things]
    shown = [(t, p) for t in scene.things for p, area in t.parts.items() if parts and area >= LEAST_PIXELS]
    pieces = [scene.mask(t, p) for t, p in shown]
    rng.shuffle(whole)
    rng.shuffle(pieces)
    chosen = [*pieces[: PROMPTS // 2], *whole][:PROMPTS]
    return [chosen[i % len(chosen)] for i in range(PROMPTS)]


def _clicks(mask: np.ndarray, count: int, rng: random.Random) -> tuple[list[tuple[int, int]], list[int]]:
    """Random pixels of the mask; with three or more, sometimes one outside marked negative."""
    inside = np.argwhere(mask)
    at = [inside[rng.randrange(len(inside))] for _ in range(count)]
    labels = [1] * count
    if count > 1 and rng.random() < 0.3:
        outside = np.argwhere(~mask)
        at[-1], labels[-1] = outside[rng.randrange(len(outside))], 0
    return [(int(x), int(y)) for y, x in at], labels


def _box(mask: np.ndarray, rng: random.Random, jitter: float) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    edges = (columns[0], rows[0], columns[-1], rows[-1])
    return [float(e) + rng.uniform(-jitter, jitter) for e in edges]


def make_prompts(scenes: list[Scene], kind: str, rng: random.Random, jitter: float = 3.0) -> PromptBatch:
    """Prompts of `kind` for every scene. Only a box can mean a part: a point always means the whole object."""
    chosen = [_targets(s, rng, parts=kind == "box" and jitter > 0) for s in scenes]
    masks = as_tensor(np.stack([np.stack(one) for one in chosen])).float()
    if kind == "box":
        return PromptBatch(masks, None, None, torch.tensor([[_box(m, rng, jitter) for m in one] for one in chosen]))
    clicks = [[_clicks(m, int(kind[0]), rng) for m in one] for one in chosen]
    points = torch.tensor([[c[0] for c in one] for one in clicks], dtype=torch.float)
    return PromptBatch(masks, points, torch.tensor([[c[1] for c in one] for one in clicks]), None)


def answer(
    sam: SamModel, embedding: Tensor, prompts: PromptBatch
) -> tuple[Float[Tensor, "b q h w"], Float[Tensor, "b q"]]:
    """Low-resolution mask logits and predicted IoU of every prompt."""
    sparse, patch_loss = sam.prompt_encoder(prompts.points, prompts.labels, prompts.boxes, None)
    positions = sam.get_image_wide_positional_embeddings().repeat(len(embedding), 1, 1, 1)
    masks, quality = sam.mask_decoder(
        image_embeddings=embedding,
        image_positional_embeddings=positions,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=patch_loss,
        multimask_output=False,
    )
    return masks[:, :, 0].float(), quality[:, :, 0].float()


def soft_iou(logits: Tensor, target: Tensor) -> Tensor:
    predicted, actual = logits > 0, target > 0.5
    both, either = (predicted & actual).sum((-2, -1)), (predicted | actual).sum((-2, -1))
    return both / either.clamp(min=1)


def mask_terms(logits: Float[Tensor, "b q h w"], target: Float[Tensor, "b q h w"]) -> dict[str, Tensor]:
    p = logits.sigmoid()
    overlap = (2 * (p * target).sum((-2, -1)) + 1) / ((p + target).sum((-2, -1)) + 1)
    return {"bce": 16 * F.binary_cross_entropy_with_logits(logits, target), "dice": 2 * (1 - overlap).mean()}


class CellReadout(nn.Module):
    """The 4 x 4 mask cells of an embedding cell, and its object. Not used after the stage."""

    sizes = (16, 4, len(CONCEPT_INDEX) + 1, len(PART_INDEX) + 1)

    def __init__(self, width: int):
        super().__init__()
        self.readout = nn.Linear(width, sum(self.sizes))

    def terms(self, embedding: Tensor, scenes: list[Scene]) -> dict[str, Tensor]:
        outputs = self.readout(rearrange(embedding.float(), "b c h w -> b h w c"))
        foreground, geometry, concept, part = outputs.split(self.sizes, -1)
        solid = as_tensor(np.stack([s.ids > 0 for s in scenes])).float()
        solid = F.avg_pool2d(solid[:, None], 4)[:, 0]
        fine = rearrange(solid, "b (h p) (w q) -> b h w (p q)", h=CELLS, w=CELLS)
        truth = symbols(scenes, CELLS)
        shown = truth.concept > 0
        return {
            "foreground": 3 * F.binary_cross_entropy_with_logits(foreground, fine),
            "geometry": 1.5 * F.smooth_l1_loss(geometry[shown], 4 * truth.geometry[shown]),
            "concept": 0.8 * F.cross_entropy(concept.flatten(0, 2), truth.concept.flatten()),
            "part": 0.8 * F.cross_entropy(part[shown], truth.part[shown]),
        }


def evaluator(sam: SamModel, count: int = 100) -> Callable[[], Mapping[str, float]]:
    """Mean IoU at full size from one point, three points and a box, on objects of test scenes."""
    world = World("test", 6)
    scenes = [world.scene(i) for i in range(count)]

    @torch.no_grad()
    def evaluate() -> Mapping[str, float]:
        scores: dict[str, list[float]] = {}
        for first in range(0, count, 25):
            some = scenes[first : first + 25]
            with half_precision():
                embedding = sam.vision_encoder(pixels(some, SIZE)).last_hidden_state.float()
            for kind in ("1 point", "3 points", "box"):
                prompts = make_prompts(some, kind, random.Random(first), jitter=0.0)
                logits = F.interpolate(answer(sam, embedding, prompts)[0], size=(SIZE, SIZE), mode="bilinear")
                scores.setdefault(f"iou {kind}", []).append(soft_iou(logits, prompts.masks).mean().item())
        return {kind: sum(values) / len(values) for kind, values in scores.items()}

    return evaluate


def train_sam(sam: SamModel, budget: Budget, out: Path) -> None:
    """Train the embedded SAM in place; the auxiliary terms fade out."""
    readout = CellReadout(sam.config.vision_config.output_channels)
    stage = Stage("sam", {"sam": sam, "cells": readout}, budget, out)
    stage.resume()
    world = World("train", budget.seed)

    def terms_of(step: int) -> Mapping[str, Tensor]:
        scenes = [world.scene(i) for i in scene_numbers(step, budget.batch)]
        rng = random.Random(step)
        prompts = make_prompts(scenes, rng.choice(KINDS), rng)
        with half_precision():
            embedding = sam.vision_encoder(pixels(scenes, SIZE)).last_hidden_state
            logits, quality = answer(sam, embedding, prompts)
        target = F.avg_pool2d(prompts.masks, 4)
        fade = 1 - step / budget.steps
        return {
            **mask_terms(logits, target),
            "quality": 0.5 * F.mse_loss(quality, soft_iou(logits.detach(), target)),
            **{k: fade * v for k, v in readout.terms(embedding, scenes).items()},
        }

    stage.run(terms_of, evaluator(sam), evaluate_every=400)
