"""Work in units: each runs in a process of its own and leaves a report, which holds for as long as all that its numbers
depend on stays the same."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from seglens.core.files import write_json

REPORT = "report.json"
PATIENCE = 0.2  # seconds between two looks at a process


class StageError(RuntimeError):
    """A stage or a row that ran in a process of its own ended with an error."""


def keep_report(folder: Path, made: Mapping[str, Any], report: Any) -> None:
    """Write what a unit found, with all that it depends on."""
    write_json(folder / REPORT, {"made": made, "report": report})


def kept_report(folder: Path, made: Mapping[str, Any]) -> Any | None:
    """What a unit found, or None when it has not been run as it now stands."""
    path = folder / REPORT
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found.get("report") if found.get("made") == json.loads(json.dumps(made)) else None


def side_by_side(
    work: Mapping[str, Sequence[str]],
    jobs: int,
    needs: Mapping[str, Collection[str]] | None = None,
    tell: Callable[[str, float], None] = lambda name, seconds: None,
) -> None:
    """Run modules with their arguments, up to `jobs` at a time, each in a process that is told its number of threads
    last. A unit waits for those of `work` that it `needs`. `tell` hears of each that is done, and its seconds.

    Raises StageError when one fails; those that still run are ended."""
    waiting, done = list(work), set[str]()
    running = dict[str, tuple[subprocess.Popen[bytes], float]]()
    threads = str(max(1, torch.get_num_threads() // jobs))
    try:
        while waiting or running:
            ready = [name for name in waiting if not (set((needs or {}).get(name, ())) & work.keys()) - done]
            for name in ready[: jobs - len(running)]:
                waiting.remove(name)
                running[name] = subprocess.Popen([sys.executable, "-m", *work[name], threads]), time.monotonic()
            for name, (process, begun) in list(running.items()):
                try:
                    code = process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    continue
                del running[name]
                if code:
                    raise StageError(
                        f"{name!r} failed with exit code {code}; its output is above, and the same command resumes"
                    )
                done.add(name)
                tell(name, time.monotonic() - begun)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.wait()
