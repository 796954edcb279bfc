"""Work in units: each runs in a separate process and leaves a report, which stays valid as long as everything that its
numbers depend on is the same."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import torch

from seglens.core.files import write_json

REPORT = "report.json"
POLL = 0.2  # seconds between two checks of a process


class StageError(RuntimeError):
    """A stage or a row that ran in a separate process ended with an error."""


def keep_report(folder: Path, depends_on: Mapping[str, Any], report: Any) -> None:
    """Write the report of a unit, with everything that it depends on."""
    write_json(folder / REPORT, {"made": depends_on, "report": report})


def kept_report(folder: Path, depends_on: Mapping[str, Any]) -> Any | None:
    """The report of a unit, or None when there is none for what it depends on now."""
    path = folder / REPORT
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return record.get("report") if record.get("made") == json.loads(json.dumps(depends_on)) else None


def side_by_side(
    work: Mapping[str, Sequence[str]],
    jobs: int,
    needs: Mapping[str, Collection[str]] | None = None,
    finished: Callable[[str, float], None] = lambda name, seconds: None,
) -> None:
    """Run modules with their arguments, up to `jobs` at a time, each in a separate process; its last argument is a
    number of threads. A unit waits for those of `work` that it `needs`. `finished` is called with the name of each that
    is done and its seconds.

    Raises StageError when one fails, and ends those that still run; ValueError when units wait for one another."""
    order = TopologicalSorter({name: set((needs or {}).get(name, ())) & work.keys() for name in work})
    order.prepare()
    waiting = list[str]()
    running = dict[str, tuple[subprocess.Popen[bytes], float]]()
    threads = str(max(1, torch.get_num_threads() // jobs))
    try:
        while order.is_active():
            waiting += order.get_ready()
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running[name] = subprocess.Popen([sys.executable, "-m", *work[name], threads]), time.monotonic()
            for name, (process, start) in list(running.items()):
                try:
                    code = process.wait(POLL)
                except subprocess.TimeoutExpired:
                    continue
                del running[name]
                if code:
                    raise StageError(
                        f"{name!r} failed with exit code {code}; its output is above, and the same command resumes"
                    )
                order.done(name)
                finished(name, time.monotonic() - start)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.wait()
