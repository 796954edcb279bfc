"""Training a head on frozen features: the loop is one page, and the same on one device or on many.

A step is a number of images, whatever the number of devices and however few of them fit on one at a time: losses are
averaged over all masks of the step, and every random number is a function of the seed, the step and the part of it. So
a run that is killed, or goes on with other devices, sees the same data and draws the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from seglens.checkpoint import HeadConfig
from seglens.features import Features, FeatureSource, collate
from seglens.lessons import Lessons
from seglens.methods.lens import Lens
from seglens.runs import LAST, RunFolder, claim
from seglens.types import Totals
from seglens.validation import validate

Tracker = Literal["tensorboard", "wandb"]
PACKAGES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained. Defaults follow LENS section 4.1 and LISA; the miniature's own are in its recipe."""

    steps: int = 5000
    images: int = 8  # per optimiser step, over all devices, with their questions
    micro: int | None = None  # images of one pass on one device; None is all of the device's share
    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    schedule: Literal["linear", "constant"] = (
        "linear"  # after the warm-up: down to zero (LISA's WarmupDecayLR), or flat
    )
    warmup: int = 100  # steps
    clip: float | None = 1.0
    mixed_precision: str = "bf16"  # autocast; the weights and the optimiser stay fp32
    seed: int = 0
    save_every: int = 200
    keep: int = 2  # checkpoints
    validate_every: int = 500
    log_every: int = 10
    trackers: tuple[Tracker, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        for name in ("steps", "images", "save_every", "keep", "validate_every", "log_every", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"training got {name}={getattr(self, name)}; it must be above 0")
        for name in ("micro", "clip"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"training got {name}={getattr(self, name)}; it must be above 0, or None")
        if self.warmup < 0:
            raise ValueError(f"training got warmup={self.warmup}; it must be 0 or more")

    def rate(self, step: int) -> float:
        """Share of `lr` at this step."""
        falling = (self.steps - step) / max(1, self.steps - self.warmup) if self.schedule == "linear" else 1.0
        return min((step + 1) / max(1, self.warmup), max(0.0, falling), 1.0)

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


def fit(
    method: Lens, lessons: Lessons, config: TrainConfig, head: HeadConfig, out: Path,
    exam: FeatureSource | None = None, quiet: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Train `method` in place, where it lies. Checkpoints, curves and heads go to `out`: `head` is that of the last
    step, `best` the one that validated best on `exam`. Returns the last smoothed terms. Runs under `torchrun` or
    `accelerate launch` on any number of devices; the same command resumes.

    Raises ValueError when `out` holds a run with other settings or data, or the step cannot be cut evenly."""
    accelerator = _accelerator(config, out, next(method.parameters()).device)
    passes, micro = config.passes(accelerator.num_processes)
    accelerator.gradient_accumulation_steps = passes
    if accelerator.is_main_process:
        made = {"training": asdict(config), "method": asdict(method.config), "data": lessons.fingerprint()}
        claim(out / "train.json", made)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    model, optimiser = accelerator.prepare(method, optimiser)
    accelerator.init_trackers("curves")
    folder = RunFolder(out, head, config.keep)
    step, smooth = folder.resume(accelerator), dict[str, float]()
    parts = [a * accelerator.num_processes + accelerator.process_index for a in range(passes)]

    def read(at: int) -> list[list[Features]]:
        """This device's parts of a step."""
        return [[lessons.lesson(at * config.images + part * micro + i) for i in range(micro)] for part in parts]

    with progress("training", config.steps, step, quiet or not accelerator.is_main_process) as show:
        for shown in _ahead(read, step, config.steps):
            model.train()
            for group in optimiser.param_groups:
                group["lr"] = config.lr * config.rate(step)
            totals = _totals(accelerator, shown)
            said = []
            for part, found in zip(parts, shown, strict=True):
                batch = collate(found, accelerator.device)
                local = method.draw_local(batch.truth.valid.shape, _seeded(config.seed, step, part))
                with accelerator.accumulate(model):
                    output = model(batch.readout, batch.embedding, local=local.to(accelerator.device))  # under autocast
                    terms = method.losses(output, batch.truth, totals)
                    # accelerate averages over passes and devices; the totals have seen to that already
                    accelerator.backward(passes * accelerator.num_processes * sum(terms.values()))
                    if accelerator.sync_gradients and config.clip is not None:
                        accelerator.clip_grad_norm_(trained, config.clip)
                    optimiser.step()
                    optimiser.zero_grad()
                said.append({name: value.detach() for name, value in terms.items()})
            step += 1
            smooth = _smoothed(smooth, _summed(accelerator, said))
            if step % config.log_every == 0:
                accelerator.log({**smooth, "lr": config.lr * config.rate(step - 1)}, step=step)
            if exam is not None and (step % config.validate_every == 0 or step == config.steps):
                scores = validate(accelerator, model, exam, micro)
                accelerator.log({f"validation/{name}": value for name, value in scores.items()}, step=step)
                folder.keep_if_best(accelerator, model, scores, step)
            if step % config.save_every == 0 or step == config.steps:
                folder.save(accelerator, step)
            show(step, smooth)
    folder.export(accelerator, model, LAST)
    accelerator.end_training()
    accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()  # whoever uses it now runs in its own precision
    return smooth


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


def _totals(accelerator: Any, shown: Sequence[Sequence[Features]]) -> Totals:
    asked = [a for found in shown for f in found for a in f.asked]
    counts = torch.tensor([sum(a.present for a in asked), len(asked)], dtype=torch.float32, device=accelerator.device)
    present, valid = accelerator.reduce(counts, "sum").tolist()
    return Totals(present, valid)


def _summed(accelerator: Any, said: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """The terms of the whole step."""
    values = torch.stack([torch.stack([part[name].float() for name in said[0]]) for part in said]).sum(0)
    return dict(zip(said[0], accelerator.reduce(values, "sum").tolist(), strict=True))


def _smoothed(smooth: Mapping[str, float], terms: Mapping[str, float]) -> dict[str, float]:
    return {name: 0.97 * smooth.get(name, value) + 0.03 * value for name, value in terms.items()}


def need_extras(trackers: Sequence[Tracker]) -> None:
    """Raises ImportError, before anything is read, when what only training needs is not installed."""
    try:
        for package in ("accelerate", *(PACKAGES[name] for name in trackers)):
            import_module(package)  # accelerate would train on without curves
    except ImportError as error:
        needed = " and ".join(("accelerate", *trackers))
        raise ImportError(f"training needs {needed} ({error}); run: pip install 'seglens[train]'") from error


def _accelerator(config: TrainConfig, out: Path, device: torch.device) -> Any:
    need_extras(config.trackers)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # of an earlier run in this process, whose precision would be kept
    return Accelerator(
        mixed_precision=config.mixed_precision, cpu=device.type == "cpu", log_with=list(config.trackers) or None,
        project_dir=out,
    )  # fmt: skip


@contextmanager
def progress(
    what: str, total: int, done: int = 0, quiet: bool = False
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """A bar where standard error is a terminal. Gives a function that shows a step and the smoothed terms."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = quiet or not console.is_terminal
    with Progress(*columns, TextColumn("{task.fields[terms]}"), console=console, disable=hidden) as bar:
        task = bar.add_task(what, total=total, completed=done, terms="")

        def show(step: int, terms: Mapping[str, float]) -> None:
            bar.update(task, completed=step, terms=" ".join(f"{name} {value:.3f}" for name, value in terms.items()))

        yield show
