"""The devices of a training: one, or those of the processes that `torchrun` or `accelerate launch` started.

DDP copies the head to every device; FSDP and DeepSpeed ZeRO divide its weights, gradients and moments into shards. The
settings of either in accelerate's configuration file hold, except for those that the loop itself decides: precision
(autocast over fp32 weights), the division of a step, clipping, and that the head stays one piece (its layers are called
by other methods than `forward`, which would see only a shard of them).
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch

from seglens.core.files import write_atomic
from seglens.core.types import Keypoints, MethodOutput

Tracker = Literal["tensorboard", "wandb"]
Precision = Literal["bf16", "no"]
PACKAGES: dict[str, tuple[str, str]] = {  # module and extra of each tracker
    "tensorboard": ("torch.utils.tensorboard", "train"),
    "wandb": ("wandb", "wandb"),
}


def need_extras(trackers: Sequence[Tracker]) -> None:
    """Raises ImportError, before anything is read, when a package that only training needs is not installed."""
    for name, (module, extra) in (("accelerate", ("accelerate", "train")), *((t, PACKAGES[t]) for t in trackers)):
        try:
            import_module(module)  # accelerate would train on without curves
        except ImportError as error:
            raise ImportError(f"training needs {name} ({error}); run: pip install 'seglens[{extra}]'") from error


def accelerator_for(device: torch.device, trackers: Sequence[Tracker], out: Path) -> Any:
    """The processes of this launch, joined. Raises ImportError without the extras, and ValueError when the launch asks
    for shards on a device that accelerate does not shard on."""
    need_extras(trackers)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    logging.getLogger("accelerate").setLevel(logging.ERROR)  # it notes every checkpoint that it writes
    AcceleratorState._reset_state()  # of an earlier run in this process
    # "no": autocast is `precise`, the same for all kinds; FSDP and DeepSpeed would else compute in half the weights
    accelerator = Accelerator(
        mixed_precision="no",
        cpu=device.type == "cpu",
        log_with=_trackers(trackers, out) or None,
        # gradients lie in the buckets that are exchanged: otherwise both take the memory of all that is trained
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    sharding = next((name for name in SHARDED if _flag(f"ACCELERATE_USE_{name}")), None)
    if sharding and accelerator.num_processes > 1 and kind(accelerator) != sharding:
        raise ValueError(
            f"the launch asks for {sharding}, and accelerate shards on GPUs, not on {device.type!r}: give --device "
            "cuda, or launch without it"
        )
    return accelerator


def _trackers(names: Sequence[Tracker], out: Path) -> list[Any]:
    """TensorBoard's files in `out/curves`; on W&B a run of the project "seglens", with the name and folder of `out`."""
    from accelerate import tracking

    build: dict[Tracker, Callable[[], Any]] = {
        "tensorboard": lambda: tracking.TensorBoardTracker("curves", out),
        "wandb": lambda: tracking.WandBTracker("seglens", name=out.resolve().name, dir=str(out), resume="allow"),
    }
    return [build[name]() for name in names]


def begin_curves(accelerator: Any, settings: Mapping[str, Any]) -> None:
    """Open the curves, with the settings beside them. Raises ValueError in one line when W&B wants a login."""
    flat = {f"{part}/{name}": value for part, of in settings.items() for name, value in _items(of)}
    for tracker in accelerator.log_with:
        if tracker.name == "wandb" and accelerator.is_main_process:
            tracker.init_kwargs["id"] = _run_id(Path(tracker.init_kwargs["dir"]))
    try:
        accelerator.init_trackers("seglens", config=flat)
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "wandb":
            raise
        raise ValueError(
            f"Weights & Biases: {' '.join(str(error).split())}; run `wandb login`, or set WANDB_MODE=offline"
        ) from error


def _items(settings: Any) -> list[tuple[str, str | int | float]]:
    """Settings in the form that trackers store: numbers and text."""
    if not isinstance(settings, Mapping):
        return [("fingerprint", str(settings))]
    return [(key, value if isinstance(value, int | float) else str(value)) for key, value in settings.items()]


def _run_id(out: Path) -> str:
    """The same for every start of the run in this folder, so that its curves go on."""
    path = out / "wandb.id"
    if not path.exists():
        write_atomic(path, secrets.token_hex(4).encode())
    return path.read_text()


SHARDED = ("FSDP", "DEEPSPEED")


def kind(accelerator: Any) -> str:
    """How the weights are distributed: "whole" on every device, "FSDP" or "DEEPSPEED"."""
    name = str(accelerator.distributed_type.value)
    return name if name in SHARDED else "whole"


def arrange(accelerator: Any, passes: int, micro: int, clip: float | None) -> None:
    """Configure the launch for the division of a step, before anything is prepared."""
    accelerator.gradient_accumulation_steps = passes
    if kind(accelerator) == "FSDP":
        plugin = accelerator.state.fsdp_plugin
        if plugin.fsdp_version != 2:  # FSDP 1 cannot gather a head whose layers are called by other methods
            raise ValueError("the launch asks for FSDP version 1; give fsdp_version: 2 in accelerate's configuration")
        plugin.auto_wrap_policy = plugin.mixed_precision_policy = None
        plugin.cpu_ram_efficient_loading = False  # every process has built the same head
        _as_trees()
    if kind(accelerator) == "DEEPSPEED":
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config.update(
            train_micro_batch_size_per_gpu=micro,
            gradient_accumulation_steps=passes,
            gradient_clipping=clip or 0.0,
            bf16={"enabled": False},
            fp16={"enabled": False},
            zero_allow_untested_optimizer=True,
        )
        config.pop("train_batch_size", None)
        config.setdefault("zero_optimization", {})["stage3_gather_16bit_weights_on_model_save"] = (
            True  # in fp32, as here
        )


def precise(device: torch.device, precision: Precision) -> AbstractContextManager:
    """Autocast for one forward pass: the weights and the optimiser stay fp32."""
    return nullcontext() if precision == "no" else torch.autocast(device.type, torch.bfloat16)


@contextmanager
def halting() -> Iterator[Callable[[], bool]]:
    """Gives a function that returns whether SIGTERM came, which schedulers send some time before they kill.

    Only a main thread can receive signals; elsewhere the answer is always no."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.set())
    try:
        yield received.is_set
    except Exception:
        signal.signal(signal.SIGTERM, before)
        if received.is_set():  # it came because another process failed, and that caused this one's error
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def first_reports(rank: int) -> Iterator[None]:
    """An error that all processes share is reported by the first: the launcher ends the others while they wait here."""
    try:
        yield
    except Exception:
        if rank:
            time.sleep(WAIT)
        raise


WAIT = 10.0  # seconds; torchrun needs a tenth of one


@cache
def _as_trees() -> None:
    """FSDP 2 looks for the tensors of an output to gather the weights again before the backward pass."""
    from torch.export import register_dataclass

    for outputs in (MethodOutput, Keypoints):
        register_dataclass(outputs)


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")
