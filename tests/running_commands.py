"""Commands that run until they are stopped."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from time import monotonic, sleep

from forked import Started, command

# Each with the address that pages show of it
STAY = {"seglens serve": "http://127.0.0.1:8000", "seglens mcp --http": "http://127.0.0.1:8001"}
PORTS = [address.rpartition(":")[2] for address in STAY.values()]


@contextlib.contextmanager
def staying(arguments: list[str]) -> Iterator[str]:
    """A command that runs until it is stopped, as a separate process on a free port; its address."""
    words = ["0" if word in PORTS else word for word in arguments]
    process = Started(command, *words, SEGLENS_PORT="0")
    try:
        yield _address(process)
        process.interrupt()
        assert process.wait(60)[0] in (0, 130), arguments
    finally:
        process.kill()


def _address(process: Started, seconds: float = 120.0) -> str:
    """The address that it prints; it answers there."""
    until = monotonic() + seconds
    while monotonic() < until and process.running:
        if match := re.search(r"(http://127\.0\.0\.1:\d+)/?\S*\b", process.printed + process.errors):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", int(match[1].rpartition(":")[2])), 5).close()
                return match[1]
        sleep(0.05)
    raise AssertionError(f"it did not come up:\n{process.errors}")
