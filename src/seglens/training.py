"""Training a head on frozen features. The loop is one page; it resumes exactly after a kill at any step."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from seglens.backbones import load_backbone
from seglens.checkpoint import Origin, hub_commit
from seglens.data import load_data
from seglens.decoders import load_decoder
from seglens.features import FeatureStore, collect
from seglens.files import write_json
from seglens.methods import build_lens
from seglens.methods.lens import Lens, LensConfig
from seglens.segmenter import usable_device


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained. Defaults follow LENS section 4.1 and LISA; the miniature's own are in its recipe."""

    steps: int = 5000
    images: int = 8  # per step, with all their questions
    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup: int = 100  # steps up, then a line down to zero (LISA's WarmupDecayLR)
    clip: float = 1.0
    mixed_precision: str = "bf16"  # autocast; the weights and the optimiser stay fp32
    seed: int = 0
    save_every: int = 200
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "images", "warmup", "save_every", "log_every", "lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"training got {name}={getattr(self, name)}; it must be above 0")

    def rate(self, step: int) -> float:
        """Share of `lr` at this step."""
        return min((step + 1) / self.warmup, max(0.0, (self.steps - step) / max(1, self.steps - self.warmup)))


def order(seed: int, step: int, images: int, total: int) -> list[int]:
    """The images of a step: a fresh shuffle per epoch, a pure function of the step, so that resuming needs no state.

    Every image is shown once per epoch; the last step of an epoch may have fewer."""
    per_epoch = -(-total // images)
    epoch, at = divmod(step, per_epoch)
    shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
    return shuffled[at * images : (at + 1) * images].tolist()


def fit(method: Lens, store: FeatureStore, config: TrainConfig, out: Path, quiet: bool = False) -> dict[str, float]:
    """Train `method` in place, where it lies; checkpoints and TensorBoard curves go to `out`. Returns the last smoothed
    terms.

    Raises ValueError when `out` holds a run with other settings or data, or when launched in several processes."""
    accelerator = _accelerator(config, out, next(method.parameters()).device)
    made = {"training": asdict(config), "method": asdict(method.config), "data": store.fingerprint()}
    _claim(out / "train.json", made)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    # a lambda, because a method's attributes would be saved with the schedule
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda at: config.rate(at))
    model, optimiser, schedule = accelerator.prepare(method, optimiser, schedule)
    accelerator.init_trackers("curves")
    step, smooth = _resume(accelerator, out), dict[str, float]()
    model.train()
    with _progress("training", config.steps, step, quiet) as show:
        while step < config.steps:
            batch = store.batch(order(config.seed, step, config.images, len(store)), accelerator.device)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            b, q = batch.present.shape
            local = method.draw_local((b, q), generator).to(accelerator.device)
            output = model(batch.readout, batch.embedding, local=local)  # under autocast: `prepare` saw to it
            terms = method.losses(output, batch.masks, batch.cells, batch.present)
            accelerator.backward(sum(terms.values()))
            accelerator.clip_grad_norm_(trained, config.clip)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            step += 1
            smooth = {k: 0.97 * smooth.get(k, v.item()) + 0.03 * v.item() for k, v in terms.items()}
            if step % config.log_every == 0:
                accelerator.log({**smooth, "lr": schedule.get_last_lr()[0]}, step=step)
            if step % config.save_every == 0 or step == config.steps:
                _save(accelerator, out, step)
            show(step, smooth)
    accelerator.end_training()
    accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()  # whoever uses it now runs in its own precision
    return smooth


def _need_extras() -> None:
    """Raises ImportError, before anything is read, when what only training needs is not installed."""
    try:
        import accelerate  # noqa: F401
        from torch.utils import tensorboard  # noqa: F401  accelerate would train on without curves
    except ImportError as error:
        said = f"training needs accelerate and tensorboard ({error}); run: pip install 'seglens[train]'"
        raise ImportError(said) from error


def _accelerator(config: TrainConfig, out: Path, device: torch.device) -> Any:
    _need_extras()
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    set_seed(config.seed)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, cpu=device.type == "cpu", log_with="tensorboard", project_dir=out
    )
    if accelerator.num_processes > 1:
        raise ValueError(
            f"training got {accelerator.num_processes} processes; this version trains in one: "
            "start it without a launcher (several are planned)"
        )
    return accelerator


def _claim(path: Path, made: dict[str, Any]) -> None:
    """One folder, one run: what is written here once must be the same when the run goes on."""
    made = json.loads(json.dumps(made))
    if not path.exists():
        return write_json(path, made)
    theirs = json.loads(path.read_text())
    differing = [key for key in made if theirs.get(key) != made[key]]
    if differing:
        raise ValueError(
            f"{path.parent} holds a run with other settings ({', '.join(differing)} in {path.name}); "
            "continue it with its own, or give another folder"
        )


def _checkpoints(out: Path) -> list[Path]:
    return sorted(out.glob("step_*"), key=lambda p: int(p.name.split("_")[1]))


def _resume(accelerator: Any, out: Path) -> int:
    found = _checkpoints(out)
    if not found:
        return 0
    accelerator.load_state(str(found[-1]))
    return int(found[-1].name.split("_")[1])


def _save(accelerator: Any, out: Path, step: int) -> None:
    """A folder under a temporary name, renamed when whole; the two newest are kept."""
    partial, final = out / f".step_{step}", out / f"step_{step}"
    shutil.rmtree(partial, ignore_errors=True)
    accelerator.save_state(str(partial), safe_serialization=True)
    for file in partial.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    for old in _checkpoints(out)[:-2]:
        shutil.rmtree(old)


@contextmanager
def _progress(
    what: str, total: int, done: int = 0, quiet: bool = False
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """A bar on standard error, or nothing. Gives a function that shows a step and the smoothed terms."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[terms]}"), console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(what, total=total, completed=done, terms="")

        def show(step: int, terms: Mapping[str, float]) -> None:
            bar.update(task, completed=step, terms=" ".join(f"{name} {value:.3f}" for name, value in terms.items()))

        yield show


@dataclass(frozen=True)
class Prepared:
    """A fresh head, the frozen parts and the layer it reads, and the frozen features of its training data."""

    head: Lens
    backbone: Origin
    layer: int
    decoder: Origin
    store: FeatureStore


def prepare(
    backbone: str, decoder: str, data: str, config: LensConfig, layer: int | None, out: Path,
    device: str = "cpu", seed: int = 0,
) -> Prepared:  # fmt: skip
    """Load the frozen parts, read the data once (kept in `out` for a resumed run), and build the head.

    Raises ValueError when the data is kept for tests, or when `out` holds features of other data or other weights."""
    _need_extras()
    samples, where = load_data(data), usable_device(device)
    if not samples.trainable:
        raise ValueError(f"{data!r} is kept for tests and cannot train a head; add split=train")
    # half precision is slow and coarse on a CPU
    loading: dict[str, Any] = {"dtype": torch.float32} if where.type == "cpu" else {}
    mllm = load_backbone(backbone, layer=layer, segmentation_only=True, **loading)
    sam = load_decoder(decoder, dtype=torch.float32)
    mllm.module.to(where)
    sam.module.to(where)
    torch.manual_seed(seed)
    head = build_lens(config, mllm, sam).to(where)
    origins = {part: Origin.of(name, hub_commit(name)) for part, name in (("backbone", backbone), ("decoder", decoder))}
    made: dict[str, Any] = {"data": data, "layer": mllm.layer}
    for part, origin in origins.items():
        made |= {part: origin.name, f"{part} weights": _content(origin)}
    _claim(out / "features.json", made)
    path = out / "features.safetensors"
    if not path.exists():
        with _progress("reading", len(samples)) as show:
            done = iter(range(1, len(samples) + 1))
            collect(samples, mllm, sam, lambda: show(next(done), {})).save(path)
    return Prepared(head, layer=mllm.layer, store=FeatureStore.load(path), **origins)


def _content(origin: Origin) -> str | None:
    """Tells weights from others under the same name: a hub id's commit, or a hash of the weights in a folder."""
    if not Path(origin.name).is_dir():
        return origin.revision
    digest = hashlib.sha256()
    for path in sorted(Path(origin.name).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
