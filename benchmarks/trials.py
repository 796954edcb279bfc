"""What all trials of faults share: `seglens` in a separate process that starts at once, and what came of a trial."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

OWN = {"curves", ".seglens", ".lock"}
LONGEST = 120.0  # seconds of one command
PARTS = ("--backbone", "embedded/mllm", "--decoder", "embedded/sam")
SMALL = ("--set", "images=2", "--set", "micro=1", "--set", "descriptor_width=16", "--set", "encoder_width=16")
Setting = Callable[[], object]  # done in the process before the command


@dataclass(frozen=True)
class Trial:
    """One fault: of which kind, what was done, and whether the product held."""

    kind: str
    what: str
    held: bool
    said: str = ""


@dataclass
class Running:
    """`seglens` with these words, forked from this process, which has imported what it needs."""

    words: Sequence[object]
    folder: Path
    settings: Sequence[Setting] = ()
    output: str = ""
    code: int | None = None
    _log: Path = field(init=False)

    def __post_init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="faults-")
        self._log = Path(name)
        self.pid = os.fork()
        if not self.pid:
            _child(list(map(str, self.words)), self.folder, handle, self.settings)
        os.close(handle)

    def alive(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self.output = self._log.read_text(errors="replace")
                self._log.unlink()
        return self.code is None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while self.alive():
            sleep(0.002)

    def wait(self) -> Running:
        """Run a command to its end; one that does not end is killed, as its code shows."""
        until = monotonic() + LONGEST
        while self.alive():
            if monotonic() > until:
                self.kill()
            sleep(0.005)
        return self

    @property
    def refused(self) -> bool:
        """In words: exit code 2, and no traceback."""
        return self.code == 2 and "Traceback" not in self.output and "seglens: " in self.output

    @property
    def last(self) -> str:
        return f"exit code {self.code}: {(self.output.strip().splitlines() or [''])[-1][:300]}"


def command(*words: object, folder: Path, settings: Sequence[Setting] = ()) -> Running:
    return Running(words, folder, settings).wait()


def train(out: str, *more: object, data: str = "world:n=4,split=train,queries=2", steps: int = 6) -> list[object]:
    """The words of a training that takes seconds and writes a checkpoint at every step."""
    budget = ("--set", f"steps={steps}", "--set", "save_every=1", "--set", "warmup=1")
    return ["train", "--data", data, *PARTS, "--out", out, *SMALL, *budget, *more]


def cache(out: str, n: int = 24) -> list[object]:
    """The words of a cache in many shards."""
    return ["cache", "build", "--data", f"world:n={n},seed=5,queries=2", *PARTS, "--out", out, "--shard", 2]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its name; what a run keeps for itself (curves, its journal) is left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not OWN.intersection(path.parts))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def pieces(folder: Path) -> list[str]:
    """What was left half-written: hidden files and folders, but for what is meant to be there."""
    hidden = (path for path in folder.rglob(".*") if not OWN.intersection(path.parts))
    return [str(path.relative_to(folder)) for path in hidden]


def ready() -> None:
    """Import once, for all that is forked from here."""
    import accelerate  # noqa: F401
    import torch.utils.tensorboard

    import seglens.cli
    import seglens.cli.failures
    import seglens.embedded.subprocess_jobs
    import seglens.exports
    import seglens.inference.image_sources
    import seglens.training.setup  # noqa: F401

    torch.set_num_threads(1)


def limited(kind: int, size: int) -> Setting:
    """A limit of the system, of resource.RLIMIT_..."""
    return lambda: resource.setrlimit(kind, (size, size))


def _child(words: list[str], folder: Path, log: int, settings: Sequence[Setting]) -> None:
    """Never returns."""
    code = 1
    try:
        os.chdir(folder)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115 (till its end)
        for setting in settings:
            setting()
        sys.argv = ["seglens", *words]
        from seglens.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def summary(trials: Sequence[Trial]) -> Mapping[str, Mapping[str, int]]:
    """By kind: how many were tried, and how many held."""
    kinds = dict.fromkeys(trial.kind for trial in trials)
    mine = {kind: [trial.held for trial in trials if trial.kind == kind] for kind in kinds}
    return {kind: {"tried": len(held), "held": sum(held)} for kind, held in mine.items()}
