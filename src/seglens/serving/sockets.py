"""Where a server listens."""

from __future__ import annotations

import os
import socket

BACKLOG = 1024  # connections that wait to be taken


def listen(host: str, port: int, remedy: str) -> socket.socket:
    """A listening socket on an address of this machine; port 0 is a free one.

    Raises OSError when there is no such address here, or when it is taken; `remedy` says what to choose then."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise OSError(f"cannot listen on {host!r} ({error.strerror}); give an address of this machine") from error
    try:
        listening = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error  # without the address, which is told already
        raise OSError(f"cannot listen on {host} port {port} ({why}); choose {remedy}") from error
    # what it accepts inherits this; asyncio sets it only on sockets that were made with their protocol's number, and an
    # answer in two packets would wait 40 ms for the client to acknowledge the first
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
