"""Training a method, on frozen features or through its own adapter: the loop is one page, and the same on one device
or on many.

A step is a number of images, whatever the number of devices and however few of them fit on one at a time: losses are
averaged over all masks of the step, and every random number is a function of the seed, the step and the part of it. So
a run that is killed, or goes on with other devices, sees the same data and draws the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from rich.console import Console
from torch import Tensor

from seglens.checkpoints.config import INIT, HeadConfig
from seglens.core.available_memory import TRAINING, check_room
from seglens.core.distributed import Ranks
from seglens.core.locks import LOCK, held
from seglens.core.progress import progress
from seglens.core.text import shortened
from seglens.core.types import Totals
from seglens.features.frozen import FeatureSource, TrainingExample
from seglens.methods.base import Method
from seglens.methods.groups import Decay, groups
from seglens.training.example_stream import ExampleStream
from seglens.training.launch import (
    Precision,
    Tracker,
    accelerator_for,
    arrange,
    begin_curves,
    halting,
    need_extras,
    precise,
)
from seglens.training.run_folder import LAST, Reached, RunError, RunFolder, claim
from seglens.training.validation import validate


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
    decay: Decay = (
        "all"  # what weight decay is of: "weights" leaves out biases and norms, as transformers' Trainer does
    )
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after warm-up: to zero (linear is LISA's), or flat
    warmup: int = 100  # steps
    clip: float | None = 1.0
    mixed_precision: Precision = "bf16"  # autocast; the weights and the optimiser stay fp32
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

    def doubts(self) -> list[str]:
        """What can be done and is seldom meant, in a sentence each."""
        if self.steps > self.warmup or self.warmup < 2:
            return []
        return [
            f"the warm-up of {self.warmup} steps is as long as the run of {self.steps} or longer, so that the rate "
            f"never comes to lr={self.lr:g}; give --set warmup={self.steps // 10}, or more steps"
        ]

    def passes(self, devices: int) -> tuple[int, int]:
        """How a step is cut: passes of each device, and images of a pass. Raises ValueError when it does not come out
        even, because a pass that is smaller than the others would change the step."""
        micro = self.micro or max(1, self.images // devices)
        if self.images % (micro * devices):
            raise ValueError(
                f"a step of {self.images} images cannot be cut into passes of {micro} on {devices} devices; "
                f"choose images as a multiple of {micro * devices}"
            )
        return self.images // (micro * devices), micro


class Terminated(SystemExit):
    """The run was told to end (SIGTERM) and has written a checkpoint: the same command goes on after `step`."""

    def __init__(self, step: int):
        super().__init__(128 + 15)
        self.step = step


def fit(
    method: Method,
    lessons: ExampleStream,
    config: TrainConfig,
    head: HeadConfig,
    out: Path,
    exam: FeatureSource | None = None,
    quiet: bool = False,
) -> dict[str, float]:
    """Train `method` in place, where it lies. Checkpoints, curves and heads go to `out`: `head` is that of the last
    step, `best` the one that validated best on `exam`. Returns the last smoothed terms. Runs under `torchrun` or
    `accelerate launch` on any number of devices; the same command resumes. Under FSDP and DeepSpeed `method` is in
    shards from then on: load the head from `out`.

    Raises ValueError when `out` holds a run with other settings or data, another process is training there, the step
    cannot be cut evenly, or a loss is no longer a number; Terminated on SIGTERM, after a checkpoint."""
    need_extras(config.trackers)
    with held(out / LOCK) if Ranks.here().first else nullcontext():
        return _fit(method, lessons, config, head, out, exam, quiet)


def _check_room(method: Method) -> None:
    """Raises MemoryError before a backward pass that could not tell of it: native code ends the process there."""
    own = sum(one.numel() * one.element_size() for one in method.parameters() if one.requires_grad)
    on_cpu = next(method.parameters()).device.type == "cpu"
    check_room(3 * own if on_cpu else 0, "gradients and states of the training", spare=TRAINING)


def _fit(
    method: Method,
    lessons: ExampleStream,
    config: TrainConfig,
    head: HeadConfig,
    out: Path,
    exam: FeatureSource | None,
    quiet: bool,
) -> dict[str, float]:
    accelerator = accelerator_for(next(method.parameters()).device, config.trackers, out)
    passes, micro = config.passes(accelerator.num_processes)
    arrange(accelerator, passes, micro, config.clip)
    made = {
        "training": asdict(config),
        "method": asdict(method.config),
        "data": lessons.fingerprint(),
        INIT: (head.trained or {}).get(INIT),
    }
    if accelerator.is_main_process:
        claim(out, made)
    parts = groups(method, config.lr, config.language_lr, config.weight_decay, config.decay)
    trained = [{"params": list(group.parameters), "weight_decay": group.weight_decay} for group in parts]
    # on a GPU the default holds copies of all gradients and states while it steps: a fifth of the peak memory
    fused = {"fused": True} if accelerator.device.type == "cuda" else {}
    _check_room(method)
    optimiser = torch.optim.AdamW(trained, lr=config.lr, betas=config.betas, **fused)
    model, optimiser = accelerator.prepare(method, optimiser)
    begin_curves(accelerator, made)
    folder = RunFolder(out, head, config.keep)
    reached = folder.resume(accelerator, model, optimiser)
    mine = [a * accelerator.num_processes + accelerator.process_index for a in range(passes)]

    def numbers(at: int, part: int) -> range:
        """The lessons of a part of a step."""
        return range(at * config.images + part * micro, at * config.images + (part + 1) * micro)

    def read(at: int) -> list[list[TrainingExample]]:
        """This device's parts of a step."""
        return [list(map(lessons.lesson, numbers(at, part))) for part in mine]

    hidden = quiet or not accelerator.is_main_process
    if reached.step and not hidden:
        Console(stderr=True).print(f"resuming from step {reached.step}", highlight=False)
    with progress("training", config.steps, reached.step, hidden) as advance, halting() as halt:
        for shown in _ahead(read, reached.step, config.steps):
            model.train()
            step = reached.step
            for group, part in zip(optimiser.param_groups, parts, strict=True):
                group["lr"] = part.lr * config.rate(step)
            totals = _totals(accelerator, shown)
            said = []
            for number, found in zip(mine, shown, strict=True):
                batch = type(found[0]).batch(found, accelerator.device)
                drawn = method.random_inputs(batch.truth.valid.shape, _seeded(config.seed, step, number))
                drawn = {name: value.to(accelerator.device) for name, value in drawn.items()}
                with accelerator.accumulate(model):
                    with precise(accelerator.device, config.mixed_precision):
                        output = model(batch.given, batch.embedding, **drawn)
                    losses = method.losses(output, batch.truth, totals)
                    # accelerate averages over passes and devices; the totals have seen to that already
                    accelerator.backward(passes * accelerator.num_processes * sum(losses.values()))
                    if accelerator.sync_gradients and config.clip is not None:
                        accelerator.clip_grad_norm_(model.parameters(), config.clip)
                    optimiser.step()
                    optimiser.zero_grad()
                said.append({name: value.detach() for name, value in losses.items()})
            terms, told = _summed(accelerator, said, halt())
            if not all(map(math.isfinite, terms.values())):
                blamed = [lessons.name(n) for part in _infinite(accelerator, mine, said) for n in numbers(step, part)]
                raise RunError(_blame(step + 1, terms, blamed))
            reached = Reached(step + 1, _smoothed(reached.smooth, terms))
            step = reached.step
            if step % config.log_every == 0:
                accelerator.log({**reached.smooth, "lr": config.lr * config.rate(step - 1)}, step=step)
            if exam is not None and (step % config.validate_every == 0 or step == config.steps):
                with precise(accelerator.device, config.mixed_precision):
                    scores = validate(accelerator, model, exam, micro)
                accelerator.log({f"validation/{name}": value for name, value in scores.items()}, step=step)
                folder.keep_if_best(accelerator, model, scores, step)
            if step % config.save_every == 0 or step == config.steps or told:
                folder.save(accelerator, model, optimiser, reached)
            advance(1, reached.smooth)
            if told and step < config.steps:
                accelerator.end_training()
                raise Terminated(step)
    folder.export(accelerator, model, LAST)
    accelerator.end_training()
    method.eval()
    return reached.smooth


def _seeded(seed: int, step: int, part: int) -> torch.Generator:
    """The randomness of one part of a step, for dropout (the global generator) and for what is returned."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + part)
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_009 + part)


def _ahead(read: Callable[[int], Any], first: int, end: int) -> Iterator[Any]:
    """The results of `read(first)` to `read(end - 1)`, each begun while the one before is being used."""
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(read, first)] if first < end else []
        for step in range(first, end):
            found = coming.pop().result()
            if step + 1 < end:
                coming.append(reader.submit(read, step + 1))
            yield found


def _totals(accelerator: Any, shown: Sequence[Sequence[TrainingExample]]) -> Totals:
    tallies = [astuple(lesson.tally()) for found in shown for lesson in found]
    counts = torch.tensor(tallies, dtype=torch.float32, device=accelerator.device).sum(0)
    return Totals(*accelerator.reduce(counts, "sum").tolist())


def _summed(accelerator: Any, said: Sequence[Mapping[str, Tensor]], halt: bool) -> tuple[dict[str, float], bool]:
    """The terms of the whole step, and whether any process was told to end."""
    values = torch.stack([torch.stack([part[name].float() for name in said[0]]) for part in said]).sum(0)
    *terms, told = accelerator.reduce(torch.cat([values, values.new_tensor([float(halt)])]), "sum").tolist()
    return dict(zip(said[0], terms, strict=True)), told > 0


def _smoothed(smooth: Mapping[str, float], terms: Mapping[str, float]) -> dict[str, float]:
    return {name: 0.97 * smooth.get(name, value) + 0.03 * value for name, value in terms.items()}


def _infinite(accelerator: Any, parts: Sequence[int], said: Sequence[Mapping[str, Tensor]]) -> list[int]:
    """The parts of the step, of all processes, that have a term which is no number. Every process must call it."""
    bad = torch.zeros(len(parts) * accelerator.num_processes, device=accelerator.device)
    for part, terms in zip(parts, said, strict=True):
        bad[part] = float(not all(bool(value.isfinite()) for value in terms.values()))
    return accelerator.reduce(bad, "sum").nonzero()[:, 0].tolist()


def _blame(step: int, terms: Mapping[str, float], names: Sequence[str]) -> str:
    infinite = ", ".join(name for name, value in terms.items() if not math.isfinite(value))
    return (
        f"step {step}: the loss is no longer a number ({infinite}) on {shortened(names, BLAMED, ', ')}; nothing of it "
        "is saved: look at these pictures, or take a smaller lr, and the same command goes on from the last checkpoint"
    )


BLAMED = 8  # pictures that an error names
