"""The folder of a training run: its settings, its checkpoints and its heads. Whole at any moment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from seglens.checkpoints.config import RUN, HeadConfig
from seglens.checkpoints.head import save_head
from seglens.core.files import write_atomic, write_json
from seglens.training.checkpoint import (
    RunError,
    RunState,
    gathered,
    read_checkpoint,
    refuse_infinite,
    write_checkpoint,
)

BEST, LAST = "best", "head"  # folders of heads that load by themselves
LEFT_OUT = "left_out{}.txt"  # bad records that were not used, a line each, as found by one process


def claim(folder: Path, settings: dict[str, Any], as_now: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """One folder, one run: the settings that are written here once must be the same when the run goes on. `as_now`
    gives settings that an older version wrote as this one writes them.

    Raises RunError naming what differs, or when the file holds no run's settings."""
    path = folder / RUN
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        return write_json(path, settings)
    written = json.loads(json.dumps(as_now(_read(path, "settings", {"training": dict, "method": dict}))))
    differing = [key for key in settings if written.get(key) != settings[key]]
    if differing:
        raise RunError(
            f"{path.parent} holds a run with other settings ({', '.join(differing)} in {path.name}); "
            "continue it with its own, or give another folder"
        )


def _read(path: Path, holds: str, needed: dict[str, type]) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} cannot be read ({error}); repair it, or give another folder") from error
    if not (isinstance(fields, dict) and all(isinstance(fields.get(name), kind) for name, kind in needed.items())):
        raise RunError(f"{path} holds no {holds} of a training run; repair it, or give another folder")
    return fields


@dataclass(frozen=True)
class RunFolder:
    """Checkpoints `step_N` (the newest `keep`), the head with the best validation, and the head of the last step."""

    path: Path
    head: HeadConfig
    keep: int

    def checkpoints(self) -> list[Path]:
        """Whole ones, oldest first."""
        return sorted(self.path.glob("step_*"), key=step_of)

    def resume(self, accelerator: Any, model: nn.Module, optimiser: Any) -> RunState:
        """Load the newest checkpoint: on any number of devices, whole or under FSDP; DeepSpeed's only as it was.

        Every process must call it. Raises RunError when a file is damaged."""
        checkpoints = self.checkpoints()
        return read_checkpoint(checkpoints[-1], accelerator, model, optimiser) if checkpoints else RunState()

    def save(self, accelerator: Any, model: nn.Module, optimiser: Any, state: RunState) -> None:
        """A folder under a temporary name, renamed when whole. Every process must call it.

        Raises RunError when weights are no longer finite or the disk is full; the older checkpoints stay."""
        name = f"step_{state.step}"
        partial, final = self.path / f".{name}", self.path / name
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        try:
            write_checkpoint(partial, accelerator, model, optimiser, state)
            if accelerator.is_main_process:
                shutil.rmtree(final, ignore_errors=True)
                os.replace(partial, final)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            whole = self.checkpoints()
            raise RunError(
                f"{final} could not be written ({' '.join(str(error).split())}); make room or repair it, and the same "
                f"command goes on from {whole[-1].name if whole else 'the start'}"
            ) from error
        if accelerator.is_main_process:
            for old in self.checkpoints()[: -self.keep]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()

    def export(self, accelerator: Any, model: nn.Module, name: str, **note: Any) -> None:
        """Write the head as it is now to the folder `name`, with a note of its origin. Every process must call it."""
        state = gathered(accelerator, model)
        if accelerator.is_main_process:
            refuse_infinite(state, f"the head {name!r}")
            trained = {**(self.head.trained or {}), **note}
            save_head(self.path / name, replace(self.head, trained=trained), state)

    def best(self) -> float:
        """The best validation so far, below every score when there is none."""
        return float((validation_scores(self.path, BEST) or {"gIoU": float("-inf")})["gIoU"])

    def keep_if_best(self, accelerator: Any, model: nn.Module, scores: dict[str, float], step: int) -> None:
        """Write down the scores, and export the head to `best` when they are better than all before. Every process must
        call it."""
        better = torch.tensor(scores["gIoU"] > self.best() if accelerator.is_main_process else False)
        better = accelerator.reduce(better.int().to(accelerator.device), "sum")  # the main process decides for all
        if bool(better):
            self.export(accelerator, model, BEST, validation=scores, steps=step)
        for name in (LAST, BEST) if bool(better) else (LAST,):
            if accelerator.is_main_process:
                write_json(self.path / f"{name}.json", {"step": step, **scores})


def keep_lines(file: Path, lines: Callable[[], Iterable[str]]) -> None:
    """Add lines to a text file, each once; no file where there are none."""
    known = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    new = [line for line in dict.fromkeys(" ".join(line.split()) for line in lines()) if line not in set(known)]
    if new:
        write_atomic(file, "".join(f"{line}\n" for line in (*known, *new)).encode())


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("_")[1])


def validation_scores(run: Path, name: str) -> dict[str, Any] | None:
    """The scores of the head of the last validation (`LAST`) or of the best one (`BEST`), and its step; None when
    nothing was validated.

    Raises RunError on a damaged file."""
    path = run / f"{name}.json"
    return _read(path, "scores", {"step": int, "gIoU": float}) if path.exists() else None
