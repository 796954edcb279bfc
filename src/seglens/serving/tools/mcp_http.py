"""The MCP server over streamable HTTP: which requests it answers, and how it stops."""

from __future__ import annotations

import ipaddress
import logging
import signal
from collections.abc import Callable, Sequence

import uvicorn
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import ClientDisconnect

from seglens.serving.sockets import listen

LOCALHOST = "127.0.0.1"
PATH = "/mcp"
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_SHUTDOWN_SECONDS = 10  # for running calls when the server stops


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT", "[IPV6]:PORT", ":PORT" or "PORT"; without a host, this machine alone.

    Raises ValueError on anything else."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or LOCALHOST
    if not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ValueError(f"got {text!r} for an address; need HOST:PORT or PORT, as in 127.0.0.1:8000")
    return host, int(port)


def security(host: str, names: Sequence[str]) -> TransportSecuritySettings:
    """Only requests that name this machine, or one of `names`, are answered: a web page in a browser cannot reach the
    server through a name of its own that resolves to this machine (DNS rebinding).

    Raises ValueError when the server listens to other machines and no name is given."""
    if not names and not _is_local(host):
        raise ValueError(
            f"got {host!r} to listen on, which other machines can reach; give the name they use: --allow-host NAME "
            "(and put a proxy in front that checks its clients: every caller may use the model)"
        )
    allowed = [*_LOOPBACK, *(f"[{name}]" if ":" in name else name for name in names)]
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[entry for name in allowed for entry in (name, f"{name}:*")],
        allowed_origins=[
            entry
            for name in allowed
            for scheme in ("http", "https")
            for entry in (f"{scheme}://{name}", f"{scheme}://{name}:*")
        ],
    )


async def serve_http(
    server: MCPServer, host: str, port: int, names: Sequence[str], max_body: int, ready: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT; running calls are finished. `ready` is called with the address.

    From the main thread, which receives signals. `max_body` is in bytes. Raises OSError when the address is in use."""
    app = server.streamable_http_app(
        host=host, streamable_http_path=PATH, max_request_body_size=max_body, transport_security=security(host, names)
    )
    for handler in logging.getLogger().handlers:  # which the package mcp has set up
        handler.addFilter(_is_news)
    with listen(host, port, "another address with --http") as listener:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_SHUTDOWN_SECONDS)
        listening = uvicorn.Server(config)
        # uvicorn raises the signal that stopped it once more, when the server has stopped already
        signal.signal(signal.SIGTERM, listening.handle_exit)
        ready(f"http://{_shown(host)}:{listener.getsockname()[1]}{PATH}")
        await listening.serve(sockets=[listener])


def _is_news(record: logging.LogRecord) -> bool:
    """A client that disconnected in the middle of its request is no error of the server: a traceback for each would
    fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], ClientDisconnect))


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
