"""Programs in separate processes that start in no time: forked from a server that has imported the package once,
without the type checks of the tests. Several know each other by the variables that torchrun sets."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import torch

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "seglens.cli",
        "seglens.training.setup",
        "seglens.training.trainer",
        "seglens.serving.http.app",
        "accelerate",
        "tensorboard",
        "uvicorn",
    ]
)


class Started:
    """A function in one process, or in several that know each other."""

    def __init__(self, target: Callable[..., object], *arguments: object, processes: int = 1, **environment: str):
        folder = Path(tempfile.mkdtemp(prefix="started"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._out, self._err = folder / "out", folder / "err"
        port = str(_free_port())
        self.processes = []
        for rank in range(processes):
            world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            met = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **{k: str(v) for k, v in world.items()}}
            variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment, **(met if processes > 1 else {})}
            process = FORKS.Process(target=_child, args=(target, arguments, variables, str(self._out), str(self._err)))
            process.start()
            self.processes.append(process)

    @property
    def running(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        for process in self.processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGINT)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def wait(self, seconds: float = 300) -> list[int | None]:
        """The exit code of each. One that has not ended by then is killed, as its code shows."""
        for process in self.processes:
            process.join(seconds)
            if process.is_alive():
                process.kill()
                process.join()
        return [process.exitcode for process in self.processes]

    @property
    def printed(self) -> str:
        return self._out.read_text() if self._out.exists() else ""

    @property
    def errors(self) -> str:
        """On standard error."""
        return self._err.read_text() if self._err.exists() else ""


def command(*words: object) -> None:
    """`seglens` with these words."""
    from seglens.cli import main

    sys.argv = ["seglens", *map(str, words)]
    main()


def _child(
    target: Callable[..., object], arguments: tuple[object, ...], environment: dict[str, str], out: str, err: str
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    torch.set_num_threads(1)
    target(*arguments)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
