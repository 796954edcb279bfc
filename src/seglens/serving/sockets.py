"""The socket on which a server listens."""

from __future__ import annotations

import os
import socket

BACKLOG = 1024  # connections that wait to be accepted


def listen(host: str, port: int, remedy: str) -> socket.socket:
    """A listening socket on an address of this machine; port 0 is a free one.

    Raises OSError when this machine has no such address, or when it is in use; `remedy` states what to choose then."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise OSError(f"cannot listen on {host!r} ({error.strerror}); give an address of this machine") from error
    try:
        listening = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error  # without the address, which the message names already
        raise OSError(f"cannot listen on {host} port {port} ({why}); choose {remedy}") from error
    # accepted connections inherit this; asyncio sets it only on sockets that were created with their protocol's number,
    # and an answer in two packets would wait 40 ms until the client acknowledges the first
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
