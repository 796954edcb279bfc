"""The last stages of the recipe: heads on the exported MLLMs and SAM, trained as a user trains them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.head import save_head
from seglens.checkpoints.origin import Origin
from seglens.data.world import WorldData
from seglens.embedded.heads import embedded_config, lens_config
from seglens.features.cache import Cache
from seglens.inference.frozen_models import Parts
from seglens.methods import METHODS, build_lens, build_method
from seglens.methods.tuned import TunedMethod
from seglens.training.config import TrainConfig
from seglens.training.example_stream import ExampleStream, epochs_of, tuned_stream
from seglens.training.trainer import fit

LAYER = 2  # of 6; docs/ablations.md compares 1 to 3


@dataclass(frozen=True)
class TunedBudget:
    """The training of a head that tunes its MLLM: steps, images of a step, queries about an image, and the rate."""

    steps: int
    images: int
    queries: int
    rate: float


TUNED = {
    "mllmseg": TunedBudget(1500, 8, 8, 1.5e-3),
    "self1e": TunedBudget(1600, 4, 4, 1e-3),
    "lisa": TunedBudget(500, 8, 8, 1e-3),
}
HEAD_DATA = WorldData(n=6000, seed=6, split="train", queries=8)
HEAD_TRAINING = TrainConfig(steps=2000, images=8, lr=6e-4, weight_decay=0.02, seed=0, save_every=500)


def frozen_parts(weights: Path, layer: int = LAYER, mllm: str = "mllm", **reading: Any) -> Parts:
    """An exported MLLM ("mllm" or "internvl") and SAM as a user loads them, on the GPU if there is one; on a CPU,
    training is fastest with eager attention. `reading`: the `canvas` and `floors` of a preset."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    origins = (Origin(str(weights / name)) for name in (mllm, "sam"))
    named = {"dtype": torch.float32, "attn_implementation": "eager", **reading}
    return Parts.load(*origins, layer=layer, device=device, **named)


def features(parts: Parts, data: WorldData, out: Path) -> Cache:
    """The frozen features of training data, kept in `out` for as long as data and weights are the same."""
    key = hashlib.sha256(json.dumps([repr(data), parts.key], sort_keys=True).encode()).hexdigest()
    return parts.cached(data, repr(data), out / f"features_{key[:12]}", "fp16")


def example_stream(parts: Parts, data: WorldData, out: Path, seed: int = 0) -> ExampleStream:
    """For a head on frozen parts: every image once per epoch, with all its questions."""
    return epochs_of(features(parts, data, out), seed)


def stage_head(out: Path, weights: Path) -> None:
    parts, config = frozen_parts(weights), lens_config()
    torch.manual_seed(0)
    head = build_lens(config, parts.backbone, parts.sam()).to(parts.device)
    note = {"data": asdict(HEAD_DATA), "training": asdict(HEAD_TRAINING)}
    head_config = HeadConfig("lens", asdict(config), Origin("../mllm"), LAYER, Origin("../sam"), trained=note)
    fit(head, example_stream(parts, HEAD_DATA, out), HEAD_TRAINING, head_config, out / "head")
    save_head(weights / "lens", head_config, head.state_dict(), torch.int8)


def stage_tuned(method: str, out: Path, weights: Path) -> None:
    """A head that tunes the InternVL: its adapter and its own parts are written."""
    budget, needs_sam = TUNED[method], METHODS[method].needs_decoder
    parts = Parts.load(
        Origin(str(weights / "internvl")),
        Origin(str(weights / "sam")) if needs_sam else None,
        device="cuda" if torch.cuda.is_available() else "cpu",
        segmentation_only=False,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    config = embedded_config(method)
    head = build_method(config, parts.backbone, parts.decoder).to(parts.device)
    assert isinstance(head, TunedMethod)
    data = WorldData(n=8000, seed=6, split="train", queries=budget.queries)
    training = TrainConfig(
        steps=budget.steps, images=budget.images, lr=budget.rate, weight_decay=0.02, warmup=50, seed=0, save_every=100
    )
    note = {"data": asdict(data), "training": asdict(training)}
    origins = Origin("../internvl"), None, Origin("../sam") if needs_sam else None
    head_config = HeadConfig(method, asdict(config), *origins, trained=note)
    stream = tuned_stream(parts, data, repr(data), head, training.seed)
    fit(head, stream, training, head_config, out / method)
    save_head(weights / method, head_config, head.state_dict(), torch.int8)
