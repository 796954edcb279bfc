"""Stage 1, vision: the ViT learns from dense labels what every patch shows (it stands for CLIP's pre-training)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seglens.embedded.models import IMAGE_MEAN, IMAGE_STD, LLAVA, VisionSize
from seglens.embedded.stage import Budget, Stage, as_tensor, half_precision, scene_numbers
from seglens.embedded.symbols import COLOUR_INDEX, CONCEPT_INDEX, PART_INDEX, symbols
from seglens.world.world import Scene, World

SIZES = (len(CONCEPT_INDEX) + 1, len(COLOUR_INDEX) + 1, len(PART_INDEX) + 1, 8)


def pixels(scenes: list[Scene], side: int) -> Float[Tensor, "b 3 side side"]:
    """The images as the vision encoder takes them."""
    x = as_tensor(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2).float()
    if x.shape[-1] != side:
        x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
    return (x / 255 - IMAGE_MEAN[0]) / IMAGE_STD[0]


class PatchReadout(nn.Module):
    """Concept, colour and part that a patch shows, and where its object is. Not used after the stage."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, sum(SIZES))

    def forward(self, x: Float[Tensor, "b n d"]) -> tuple[Tensor, ...]:
        return self.readout(self.norm(x.float())).split(SIZES, dim=-1)


def patch_features(vit: nn.Module, x: Tensor) -> Float[Tensor, "b n d"]:
    """Last hidden state without CLS, before the post-norm: what `vision_feature_layer=-1` takes."""
    with half_precision():
        return vit(x).last_hidden_state[:, 1:]


def patch_terms(outputs: tuple[Tensor, ...], scenes: list[Scene]) -> dict[str, Tensor]:
    """Cross-entropies of concept, colour and part, and the error of the geometry, on the grid of the patches."""
    grid = math.isqrt(outputs[0].shape[1])
    truth = symbols(scenes, grid)
    concept, colour, part = (t.flatten(1) for t in (truth.concept, truth.colour, truth.part))
    shown = concept > 0
    centres = (torch.arange(grid) + 0.5) / grid
    cell = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).expand(len(scenes), grid, grid, 2)
    where = torch.cat([4 * truth.geometry, 4 * cell, 4 * (cell + truth.geometry[..., :2])], -1).flatten(1, 2)
    return {
        "concept": F.cross_entropy(outputs[0].flatten(0, 1), concept.flatten(), label_smoothing=0.02),
        "colour": 0.3 * F.cross_entropy(outputs[1][shown], colour[shown]),
        "part": 0.5 * F.cross_entropy(outputs[2][shown], part[shown]),
        "geometry": 0.5 * F.smooth_l1_loss(outputs[3][shown], where[shown]),
    }


def evaluator(vit: nn.Module, readout: PatchReadout, vision_size: VisionSize) -> Callable[[], Mapping[str, float]]:
    """Shares of the patches with a thing whose kind, colour and part are read right, and the error of its centre."""
    world = World("test", 2)
    scenes = [world.scene(i) for i in range(100)]

    @torch.no_grad()
    def evaluate() -> Mapping[str, float]:
        truth = symbols(scenes, vision_size.patches)
        outputs = readout(patch_features(vit, pixels(scenes, vision_size.side)))
        shown = truth.concept.flatten(1) > 0
        right = lambda k, t: (outputs[k].argmax(-1) == t.flatten(1))[shown].float().mean().item()  # noqa: E731
        drift = (outputs[3][..., :2] / 4 - truth.geometry.flatten(1, 2)[..., :2])[shown].abs().mean().item()
        accuracy = {
            "acc": right(0, truth.concept),
            "acc_colour": right(1, truth.colour),
            "acc_part": right(2, truth.part),
        }
        return {**accuracy, "drift": drift}

    return evaluate


def train_vision(vit: nn.Module, budget: Budget, out: Path) -> None:
    """Train `vit` in place; resumes from `out`."""
    readout = PatchReadout(vit.config.hidden_size)  # type: ignore[arg-type, union-attr]
    stage = Stage("vision", {"vit": vit, "readout": readout}, budget, out)
    stage.resume()
    world = World("train", budget.seed)

    def terms_of(step: int) -> Mapping[str, Tensor]:
        scenes = [world.scene(i) for i in scene_numbers(step, budget.batch)]
        return patch_terms(readout(patch_features(vit, pixels(scenes, LLAVA.side))), scenes)

    stage.run(terms_of, evaluator(vit, readout, LLAVA), evaluate_every=400)
