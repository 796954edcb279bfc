"""A real server, as a separate process, for the benchmarks that talk to one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import IO

import psutil

import seglens
from seglens.core.cpu_threads import COUNT, WAITING

STARTUP_SECONDS = 300.0  # seconds for a server to come up: many processes may share the machine


@dataclass(frozen=True)
class Server:
    host: str
    port: int
    process: psutil.Process

    @property
    def resident(self) -> float:
        """Its memory in MB of 10^6 bytes."""
        return self.process.memory_info().rss / 1e6

    @property
    def worked(self) -> float:
        """Seconds of processor time, of all its threads."""
        times = self.process.cpu_times()
        return times.user + times.system


@contextmanager
def serving(threads: int | None = 2, source: Path | None = None, **settings: object) -> Iterator[Server]:
    """`seglens serve` with the embedded default on a free port, until the end; then it must stop by itself. `threads`
    None: as many as it chooses. `source` is the folder `src` of another version.

    Raises RuntimeError with its log when it does not come up, or does not end well."""
    options = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "seglens", "serve", "--port", "0", *options]
    package = str(source or Path(seglens.__file__).parents[1])  # this one, from whatever folder
    environment = {name: value for name, value in os.environ.items() if name not in (*COUNT, *WAITING)}
    environment |= {"PYTHONPATH": package} | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield Server("127.0.0.1", _port(process, log), psutil.Process(process.pid))
            process.send_signal(signal.SIGTERM)
            if process.wait(90):
                raise RuntimeError(f"the server ended with {process.returncode}:\n{_tail(log)}")
        finally:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen, log: IO[str]) -> int:
    until = monotonic() + STARTUP_SECONDS
    while monotonic() < until and process.poll() is None:
        if match := re.search(r"serving \S+ on http://127\.0\.0\.1:(\d+)", _tail(log)):
            return int(match[1])
        sleep(0.05)
    raise RuntimeError(f"the server did not come up:\n{_tail(log)}")


def _tail(log: IO[str]) -> str:
    log.seek(0)
    return log.read()[-4000:]
