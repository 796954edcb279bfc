"""What a busy machine costs: `python benchmarks/threads.py [--size embedded|small]`.

The median time of an image, opened and asked one question, on an idle machine and beside a busy process on every core
(started here, for a bounded time): with the threads that the command line chooses, and with PyTorch's own. Each is a
process that stays; they are measured in turn. `small` is a model with ten times the weights (`benchmarks/models.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from measure import Ratio, Report, machine, options

from seglens.core.cpu_threads import COUNT, WAITING
from seglens.core.process_limits import usable_cores

IMAGES = {"embedded": 12, "small": 1, "tiny": 2}  # of one measurement
CHOSEN, PYTORCH = "threads as SegLens chooses them", "PyTorch's own"
BUSY = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"
WORK = (
    "import sys; sys.path.insert(0, sys.argv[1]); import threads_worker as w; w.work(*sys.argv[2:5], int(sys.argv[5]))"
)
WORDS = {CHOSEN: "chosen", PYTORCH: "default"}
LONGEST = 120.0  # seconds that a busy process runs at most, if this one ends before it can end them


@dataclass(frozen=True)
class Worker:
    """A process with the model, which computes images when it is asked to."""

    process: subprocess.Popen[str]

    def milliseconds(self) -> list[float]:
        """Of each image of one measurement."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("measure", file=self.process.stdin, flush=True)
        return [float(word) for word in self.process.stdout.readline().split()]


@contextmanager
def worker(how: str, size: str, folder: str) -> Iterator[Worker]:
    """Ends with its input."""
    free = {name: value for name, value in os.environ.items() if name not in (*COUNT, *WAITING)}
    command = [sys.executable, "-c", WORK, str(Path(__file__).parent), WORDS[how], size, folder, str(IMAGES[size])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=free) as process:
        one = Worker(process)
        one.milliseconds()  # warms up
        yield one


@contextmanager
def busy_cores() -> Iterator[None]:
    """A process on every core that computes all the time."""
    loads = [subprocess.Popen([sys.executable, "-c", BUSY, str(LONGEST)]) for _ in range(usable_cores())]
    try:
        yield
    finally:
        for load in loads:
            load.kill()
            load.wait()


def compare(size: str, rounds: int) -> Report:
    before = os.getloadavg()[0]
    with TemporaryDirectory() as folder, ExitStack() as stack:
        if size == "small":
            save(folder)
        workers = {how: stack.enter_context(worker(how, size, folder)) for how in (CHOSEN, PYTORCH)}
        spent = {(how, state): list[float]() for how in workers for state in ("idle", "busy")}
        for _ in range(rounds):
            for how, one in workers.items():
                spent[how, "idle"] += one.milliseconds()
                with busy_cores():
                    spent[how, "busy"] += one.milliseconds()
    middle = {key: median(values) for key, values in spent.items()}
    rows = {f"an image, {how}, {state}": value for (how, state), value in middle.items()}
    ratios = [
        Ratio(f"busy to idle, {CHOSEN}", middle[CHOSEN, "busy"] / middle[CHOSEN, "idle"], 2.2, most=True),
        Ratio(f"busy to idle, {PYTORCH}", middle[PYTORCH, "busy"] / middle[PYTORCH, "idle"]),
        Ratio("idle, SegLens' choice to PyTorch's", middle[CHOSEN, "idle"] / middle[PYTORCH, "idle"]),
        Ratio("busy, SegLens' choice to PyTorch's", middle[CHOSEN, "busy"] / middle[PYTORCH, "busy"]),
    ]
    notes = [f"load of the machine (mean of a minute) before: {before:.2f}; other work makes 'idle' longer"]
    return Report("threads, by the wall", size, "ms", rows, ratios, notes, machine("cpu", usable_cores()))


def save(folder: str) -> None:
    import models

    models.save(models.SIZES["small"], Path(folder), "cpu")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__ or "", tuple(IMAGES), rounds=5)
    settings = parser.parse_args(arguments)
    compare(settings.size, settings.rounds).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
