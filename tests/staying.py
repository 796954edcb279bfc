"""Commands that run until they are told to stop."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import IO

import seglens

# Each with the address that pages show of it
STAY = {"seglens serve": "http://127.0.0.1:8000", "seglens mcp --http": "http://127.0.0.1:8001"}
PORTS = [address.rpartition(":")[2] for address in STAY.values()]


@contextlib.contextmanager
def staying(arguments: list[str]) -> Iterator[str]:
    """A command that runs until it is told to stop, as a process of its own on a free port; its address."""
    words = ["0" if word in PORTS else word for word in arguments]
    command = [sys.executable, "-u", "-m", "seglens", *words]
    here = str(Path(seglens.__file__).parents[1])  # this very package, wherever the process starts
    environment = {**os.environ, "SEGLENS_PORT": "0", "PYTHONPATH": here}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield _address(process, log)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in (0, 130), arguments
        finally:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen, log: IO[str], patience: float = 120.0) -> str:
    """Where it says that it listens; it answers there."""
    until = monotonic() + patience
    while monotonic() < until and process.poll() is None:
        log.seek(0)
        if found := re.search(r"(http://127\.0\.0\.1:\d+)/?\S*\b", log.read()):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", int(found[1].rpartition(":")[2])), 5).close()
                return found[1]
        sleep(0.05)
    log.seek(0)
    raise AssertionError(f"it did not come up:\n{log.read()}")
