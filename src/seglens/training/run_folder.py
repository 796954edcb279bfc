"""The folder of a training run: what it was started with, its checkpoints, its heads. Whole at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seglens.checkpoints.config import RUN, HeadConfig
from seglens.checkpoints.head import save_head
from seglens.core.files import write_json
from seglens.training.launch import kind

BEST, LAST = "best", "head"  # folders of heads that load by themselves
NOTE = "checkpoint.json"  # written last: what the other files are, and their checksums
WEIGHTS, MOMENTS = "model.safetensors", "optimizer.bin"


class RunError(ValueError):
    """A run that cannot go on or be kept: what is in the way, and what to do."""


def claim(folder: Path, made: dict[str, Any]) -> None:
    """One folder, one run: what is written here once must be the same when the run goes on.

    Raises ValueError naming what differs."""
    path = folder / RUN
    made = json.loads(json.dumps(made))
    if not path.exists():
        return write_json(path, made)
    theirs = json.loads(path.read_text())
    differing = [key for key in made if theirs.get(key) != made[key]]
    if differing:
        raise RunError(
            f"{path.parent} holds a run with other settings ({', '.join(differing)} in {path.name}); "
            "continue it with its own, or give another folder"
        )


@dataclass(frozen=True)
class Reached:
    """How far a run has come, and its smoothed terms."""

    step: int = 0
    smooth: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFolder:
    """Checkpoints `step_N` (the newest `keep`), the head with the best validation, and the head of the last step."""

    path: Path
    head: HeadConfig
    keep: int

    def checkpoints(self) -> list[Path]:
        """Whole ones, oldest first."""
        return sorted(self.path.glob("step_*"), key=lambda p: int(p.name.split("_")[1]))

    def resume(self, accelerator: Any, model: nn.Module, optimiser: Any) -> Reached:
        """Load the newest checkpoint: on any number of devices, whole or under FSDP; DeepSpeed's own only as it was.

        Every process must call it. Raises RunError when a file is damaged."""
        found = self.checkpoints()
        if not found:
            return Reached()
        note = _note(found[-1], accelerator)
        if note["layout"] == _WHOLE:
            _load(found[-1], accelerator, model, optimiser.optimizer)
        else:
            accelerator.load_state(str(found[-1]))
        accelerator.step = 0  # it counts passes to tell where a step ends, and there may be another number of them now
        return Reached(note["step"], note["smooth"])

    def save(self, accelerator: Any, model: nn.Module, optimiser: Any, reached: Reached) -> None:
        """A folder under a temporary name, renamed when whole. Every process must call it.

        Raises RunError when weights are no longer finite or the disk is full; the older checkpoints stay."""
        name = f"step_{reached.step}"
        partial, final = self.path / f".{name}", self.path / name
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        try:
            if kind(accelerator) == "DEEPSPEED":
                accelerator.save_state(str(partial))
            else:
                _store(partial, accelerator, model, optimiser.optimizer, reached.step)
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                sums = {str(file.relative_to(partial)): _sealed(file) for file in _files(partial)}
                made = {"step": reached.step, "smooth": reached.smooth, "layout": layout(accelerator), "sums": sums}
                write_json(partial / NOTE, {**made, "seal": _seal(made)})
                shutil.rmtree(final, ignore_errors=True)
                os.replace(partial, final)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            whole = self.checkpoints()
            raise RunError(
                f"{final} could not be written ({' '.join(str(error).split())}); make room or mend it, and the same "
                f"command goes on from {whole[-1].name if whole else 'the start'}"
            ) from error
        if accelerator.is_main_process:
            for old in self.checkpoints()[: -self.keep]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()

    def export(self, accelerator: Any, model: nn.Module, name: str, **note: Any) -> None:
        """Write the head as it is now to the folder `name`, with a note of how it came. Every process must call it."""
        state = _gathered(accelerator, model)
        if accelerator.is_main_process:
            _refuse_infinite(state, f"the head {name!r}")
            trained = {**(self.head.trained or {}), **note}
            save_head(self.path / name, replace(self.head, trained=trained), state)

    def best(self) -> float:
        """The best validation so far, below every score when there is none."""
        return float((validation(self.path, BEST) or {"gIoU": float("-inf")})["gIoU"])

    def keep_if_best(self, accelerator: Any, model: nn.Module, scores: dict[str, float], step: int) -> None:
        """Note how it validates, and export the head to `best` when that is better than all before. Every process must
        call it."""
        better = torch.tensor(scores["gIoU"] > self.best() if accelerator.is_main_process else False)
        better = accelerator.reduce(better.int().to(accelerator.device), "sum")  # the main process decides for all
        if bool(better):
            self.export(accelerator, model, BEST, validation=scores, steps=step)
        for name in (LAST, BEST) if bool(better) else (LAST,):
            if accelerator.is_main_process:
                write_json(self.path / f"{name}.json", {"step": step, **scores})


def validation(run: Path, name: str) -> dict[str, Any] | None:
    """How the head of the last validation (`LAST`) or the best one (`BEST`) scored, and at which step; None when
    nothing was validated."""
    path = run / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


_WHOLE = "whole"


def layout(accelerator: Any) -> str:
    """How a checkpoint lies on disk. DeepSpeed writes shards that only the same stage and number of devices reads."""
    if kind(accelerator) != "DEEPSPEED":
        return _WHOLE
    stage = accelerator.state.deepspeed_plugin.zero_stage
    return f"DeepSpeed ZeRO {stage} on {accelerator.num_processes} devices"


# ---------------------------------------------------------------- what every kind but DeepSpeed writes


def _gathered(accelerator: Any, model: nn.Module) -> dict[str, Tensor]:
    """The head's whole weights on the main process."""
    if kind(accelerator) == "DEEPSPEED":
        return accelerator.get_state_dict(model)
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    _in_shards(model)
    state: dict[str, Any] = get_model_state_dict(model, options=_everything())
    return state


def _store(folder: Path, accelerator: Any, model: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Weights and moments by the names of the head's own parameters, gathered on the main process."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    weights = _gathered(accelerator, model)
    moments = get_optimizer_state_dict(model, optimiser, options=_everything())
    if accelerator.is_main_process:
        _refuse_infinite(weights, f"step {step}")
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
        with (folder / MOMENTS).open("wb") as file:
            torch.save(moments, file)


def _everything() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def _in_shards(model: nn.Module) -> None:
    """FSDP 2 leaves the weights together after a forward pass, and then they cannot be gathered."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _load(folder: Path, accelerator: Any, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """The main process reads, and sends the others what is theirs."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    many = accelerator.num_processes > 1
    weights, moments = dict[str, Any](), dict[str, Any]()
    if accelerator.is_main_process:
        weights = load_file(folder / WEIGHTS)
        moments = torch.load(folder / MOMENTS, weights_only=True)
    options = StateDictOptions(full_state_dict=True, cpu_offload=not many, broadcast_from_rank0=many)
    # one by one: `set_state_dict` takes a process without any for one that has nothing to do
    set_model_state_dict(model, weights, options=options)
    set_optimizer_state_dict(model, optimiser, moments, options=options)


# ---------------------------------------------------------------- whole, intact, finite


def _note(folder: Path, accelerator: Any) -> dict[str, Any]:
    """Raises RunError when a file is not as it was written, or of a layout that this launch cannot read."""
    remedy = f"delete {folder} and the same command goes on from the checkpoint before it"
    try:
        note = json.loads((folder / NOTE).read_text())
        seal = note.pop("seal")
        step, smooth, sums, made = note["step"], note["smooth"], note["sums"], note["layout"]
        if _seal(note) != seal:
            raise ValueError("its checksum does not fit")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / NOTE} is missing or damaged ({error!r}); {remedy}") from error
    if made != layout(accelerator):
        raise RunError(
            f"{folder} was written as {made!r} and this launch reads {layout(accelerator)!r}; "
            "launch as it was started, or give another folder"
        )
    if accelerator.is_main_process:  # the files are large, and lie on a disk that all share
        wrong = next((name for name, sum in sums.items() if _sum(folder / name) != sum), None)
        if wrong is not None:
            raise RunError(f"{folder / wrong} is missing or not as it was written; {remedy}")
    return {"step": step, "smooth": smooth, "layout": made}


def _seal(note: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())  # DeepSpeed makes folders of its own


def _sealed(path: Path) -> str:
    """The checksum of a file that is on the disk by now."""
    with path.open("rb") as written:
        os.fsync(written.fileno())
    return str(_sum(path))


def _sum(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_infinite(state: Mapping[str, Tensor], what: str) -> None:
    bad = next((name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())), None)
    if bad is not None:
        raise RunError(
            f"the weights {bad} are no longer finite at {what}, which is not saved; take a smaller lr or clip, "
            "and the same command goes on from the last checkpoint"
        )
