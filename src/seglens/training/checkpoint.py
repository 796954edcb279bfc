"""One checkpoint of a run: weights and moments in a folder, with a note of what they are and their checksums.

Whole on one or many devices and under FSDP; under DeepSpeed in shards that only the same launch reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seglens.core.files import write_json
from seglens.training.launch import kind

NOTE = "checkpoint.json"  # written last: what the other files are, and their checksums
WEIGHTS, MOMENTS = "model.safetensors", "optimizer.bin"
WHOLE = "whole"


class RunError(ValueError):
    """A run that cannot go on or be saved: the reason, and what to do."""


@dataclass(frozen=True)
class RunState:
    """The steps that a run has done, and its smoothed terms."""

    step: int = 0
    smooth: dict[str, float] = field(default_factory=dict)


def write_checkpoint(folder: Path, accelerator: Any, model: nn.Module, optimiser: Any, state: RunState) -> None:
    """All files of a checkpoint, the note last. Every process must call it.

    Raises RunError when weights are no longer finite, and what writing raises when the disk is full."""
    if kind(accelerator) == "DEEPSPEED":
        accelerator.save_state(str(folder))
    else:
        _store(folder, accelerator, model, optimiser.optimizer, state.step)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        sums = {str(file.relative_to(folder)): _sealed(file) for file in _files(folder)}
        note = {"step": state.step, "smooth": state.smooth, "layout": layout(accelerator), "sums": sums}
        write_json(folder / NOTE, {**note, "seal": _seal(note)})


def read_checkpoint(folder: Path, accelerator: Any, model: nn.Module, optimiser: Any) -> RunState:
    """Load a checkpoint into the model and the optimiser. Every process must call it.

    Raises RunError when a file is damaged, or of a layout that this launch cannot read."""
    note = read_note(folder, accelerator)
    if note["layout"] == WHOLE:
        _load(folder, accelerator, model, optimiser.optimizer)
    else:
        accelerator.load_state(str(folder))
    accelerator.step = 0  # it counts passes to know where a step ends, and there may be another number of them now
    return RunState(note["step"], note["smooth"])


def read_note(folder: Path, accelerator: Any) -> dict[str, Any]:
    """Raises RunError when a file is not as it was written, or of a layout that this launch cannot read."""
    remedy = f"delete {folder} and the same command goes on from the checkpoint before it"
    try:
        note = json.loads((folder / NOTE).read_text())
        seal = note.pop("seal")
        step, smooth, sums, written = note["step"], note["smooth"], note["sums"], note["layout"]
        if _seal(note) != seal:
            raise ValueError("its checksum does not fit")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / NOTE} is missing or damaged ({error!r}); {remedy}") from error
    if written != layout(accelerator):
        raise RunError(
            f"{folder} was written as {written!r} and this launch reads {layout(accelerator)!r}; "
            "launch as it was started, or give another folder"
        )
    if accelerator.is_main_process:  # the files are large, and on a disk that all processes share
        wrong = next((name for name, sum in sums.items() if _sum(folder / name) != sum), None)
        if wrong is not None:
            raise RunError(f"{folder / wrong} is missing or not as it was written; {remedy}")
    return {"step": step, "smooth": smooth, "layout": written}


def layout(accelerator: Any) -> str:
    """How a checkpoint is stored. DeepSpeed writes shards that only the same stage and number of devices reads."""
    if kind(accelerator) != "DEEPSPEED":
        return WHOLE
    stage = accelerator.state.deepspeed_plugin.zero_stage
    return f"DeepSpeed ZeRO {stage} on {accelerator.num_processes} devices"


def gathered(accelerator: Any, model: nn.Module) -> dict[str, Tensor]:
    """The head's whole weights on the main process."""
    if kind(accelerator) == "DEEPSPEED":
        return accelerator.get_state_dict(model)
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    _in_shards(model)
    state: dict[str, Any] = get_model_state_dict(model, options=_everything())
    return state


def refuse_infinite(state: Mapping[str, Tensor], what: str) -> None:
    """Raises RunError when a weight is not finite."""
    bad = next((name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())), None)
    if bad is not None:
        raise RunError(
            f"the weights {bad} are no longer finite at {what}, which is not saved; take a smaller lr or clip, "
            "and the same command goes on from the last checkpoint"
        )


def _store(folder: Path, accelerator: Any, model: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Weights and moments by the names of the head's own parameters, gathered on the main process."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    weights = gathered(accelerator, model)
    moments = get_optimizer_state_dict(model, optimiser, options=_everything())
    if accelerator.is_main_process:
        refuse_infinite(weights, f"step {step}")
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
        with (folder / MOMENTS).open("wb") as file:
            torch.save(moments, file)


def _load(folder: Path, accelerator: Any, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """The main process reads, and sends the others their part."""
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


def _everything() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def _in_shards(model: nn.Module) -> None:
    """FSDP 2 leaves the weights together after a forward pass, and then they cannot be gathered."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _seal(note: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())  # DeepSpeed makes folders too


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
