"""The folder of a training run: what it was started with, its checkpoints, its heads. Whole at any moment."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seglens.checkpoint import HeadConfig, save_head
from seglens.files import write_json

BEST, LAST = "best", "head"  # folders of heads that load by themselves


def claim(path: Path, made: dict[str, Any]) -> None:
    """One folder, one run: what is written here once must be the same when the run goes on.

    Raises ValueError naming what differs."""
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


@dataclass(frozen=True)
class RunFolder:
    """Checkpoints `step_N` (the newest `keep`), the head with the best validation, and the head of the last step."""

    path: Path
    head: HeadConfig
    keep: int

    def checkpoints(self) -> list[Path]:
        """Whole ones, oldest first."""
        return sorted(self.path.glob("step_*"), key=lambda p: int(p.name.split("_")[1]))

    def resume(self, accelerator: Any) -> int:
        """Load the newest checkpoint, written by any number of processes. Returns its step; 0 when there is none."""
        found = self.checkpoints()
        if not found:
            return 0
        accelerator.load_state(str(found[-1]))
        accelerator.step = 0  # it counts passes to tell where a step ends, and there may be another number of them now
        return int(found[-1].name.split("_")[1])

    def save(self, accelerator: Any, step: int) -> None:
        """A folder under a temporary name, renamed when whole. Every process must call it."""
        partial, final = self.path / f".step_{step}", self.path / f"step_{step}"
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial), safe_serialization=True)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _settle(partial, final)
            for old in self.checkpoints()[: -self.keep]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()

    def export(self, accelerator: Any, model: nn.Module, name: str, **note: Any) -> None:
        """Write the head as it is now to the folder `name`, with a note of how it came. Every process must call it."""
        state: dict[str, Tensor] = accelerator.get_state_dict(model)  # gathers what other processes hold
        if accelerator.is_main_process:
            trained = {**(self.head.trained or {}), **note}
            save_head(self.path / name, replace(self.head, trained=trained), state)

    def best(self) -> float:
        """The best validation so far, below every score when there is none."""
        path = self.path / "best.json"
        return float(json.loads(path.read_text())["gIoU"]) if path.exists() else float("-inf")

    def keep_if_best(self, accelerator: Any, model: nn.Module, scores: dict[str, float], step: int) -> None:
        """Export the head to `best` when it validates better than all before. Every process must call it."""
        better = torch.tensor(scores["gIoU"] > self.best() if accelerator.is_main_process else False)
        better = accelerator.reduce(better.int().to(accelerator.device), "sum")  # the main process decides for all
        if bool(better):
            self.export(accelerator, model, BEST, validation=scores, steps=step)
            if accelerator.is_main_process:
                write_json(self.path / "best.json", {"step": step, **scores})


def _settle(partial: Path, final: Path) -> None:
    for file in (p for p in partial.rglob("*") if p.is_file()):  # sharded states have folders
        with file.open("rb") as written:
            os.fsync(written.fileno())
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
