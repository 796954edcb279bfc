"""How a head is trained: steps, rates, precision, and how a step is divided over devices."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from seglens.methods.groups import Decay
from seglens.training.launch import Precision, Tracker

LARGE = 1_000_000_000


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained. Defaults follow LENS section 4.1 and LISA; the embedded model's own are in its recipe."""

    steps: int = 5000
    images: int = 8  # per optimiser step, over all devices, with their questions
    micro: int | None = None  # images of one pass on one device; None is all of the device's share
    lr: float = 5e-5
    language_lr: float | None = None  # of what is trained inside the language model; None is lr
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    decay: Decay = "all"  # which weights decay: "weights" leaves out biases and norms, as transformers' Trainer does
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after warm-up: to zero (linear is LISA's), or flat
    warmup: int = 100  # steps
    clip: float | None = 1.0
    mixed_precision: Precision = "bf16"  # autocast; the weights and the optimiser stay fp32
    # whether layers of a tuned MLLM run again in the backward pass instead of keeping their activations: less memory, a
    # third more time, the same gradients; None: in an MLLM of LARGE parameters or more
    recompute: bool | None = None
    seed: int = 0
    save_every: int = 200
    keep: int = 2  # checkpoints
    validate_every: int = 500
    log_every: int = 10
    trackers: tuple[Tracker, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        for name in ("steps", "images", "save_every", "keep", "validate_every", "log_every", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"training got {name}={getattr(self, name)}; it must be above 0, and finite")
        for name in ("micro", "clip", "language_lr"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"training got {name}={getattr(self, name)}; it must be above 0, or None")
        if self.decay not in get_args(Decay):
            raise ValueError(f"training got decay={self.decay!r}; it must be {' or '.join(get_args(Decay))}")
        if self.mixed_precision not in get_args(Precision):
            raise ValueError(f"training got mixed_precision={self.mixed_precision!r}; it must be bf16 or no")
        if self.warmup < 0:
            raise ValueError(f"training got warmup={self.warmup}; it must be 0 or more")

    def rate(self, step: int) -> float:
        """Share of every group's `lr` at this step."""
        left = min(1.0, max(0.0, (self.steps - step) / max(1, self.steps - self.warmup)))
        falling = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}[self.schedule]
        return min((step + 1) / max(1, self.warmup), falling)

    def deciding(self) -> dict[str, Any]:
        """The settings that decide the weights of a run: it goes on with others of the rest."""
        return {name: value for name, value in asdict(self).items() if name != "recompute"}

    def recomputes(self, parameters: int) -> bool:
        """Whether a tuned MLLM of that size is trained with gradient checkpointing."""
        return parameters >= LARGE if self.recompute is None else self.recompute

    def doubts(self) -> list[str]:
        """What is possible and seldom intended, in a sentence each."""
        if self.steps > self.warmup or self.warmup < 2:
            return []
        return [
            f"the warm-up of {self.warmup} steps is as long as the run of {self.steps} or longer, so that the rate "
            f"never comes to lr={self.lr:g}; give --set warmup={self.steps // 10}, or more steps"
        ]

    def passes(self, devices: int) -> tuple[int, int]:
        """How a step is divided: passes of each device, and images of a pass. Raises ValueError when the parts are
        unequal, because a pass that is smaller than the others would change the step."""
        micro = self.micro or max(1, self.images // devices)
        if self.images % (micro * devices):
            raise ValueError(
                f"a step of {self.images} images cannot be cut into passes of {micro} on {devices} devices; "
                f"choose images as a multiple of {micro * devices}"
            )
        return self.images // (micro * devices), micro
