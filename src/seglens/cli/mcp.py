"""`seglens mcp`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from seglens.cli.shared import TalkingSystem, Thresholds, load_segmenter, say

if TYPE_CHECKING:
    import numpy as np

    from seglens.serving.limits import Limits


def mcp(
    system: TalkingSystem,
    thresholds: Thresholds,
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Serve streamable HTTP here (a PORT alone: for this machine only).")
    ] = "",
    allow_host: Annotated[list[str] | None, typer.Option(help="A name by which others reach it over HTTP.")] = None,
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Fetch images from public https addresses.")] = False,
    open_images: Annotated[int, typer.Option(help="Images that stay open for further questions.")] = 8,
) -> None:
    """Give an agent eyes: an MCP server on standard input and output, or over HTTP."""
    import anyio

    from seglens.serving.limits import Limits
    from seglens.serving.tools.mcp import Tools, build_server
    from seglens.serving.tools.mcp_http import parse_address, security, serve_http
    from seglens.serving.tools.tool_images import ImageReader
    from seglens.serving.tools.tool_service import ToolService

    limits, names, sure = Limits(), allow_host or [], thresholds.options()
    host, port = parse_address(http) if http else ("", 0)
    if http:
        security(host, names)  # before the model is loaded: a wrong address is told at once
    fetch = _fetch(limits) if allow_urls else None
    with redirect_stdout(sys.stderr):  # which belongs to the protocol
        segmenter = load_segmenter(system, **sure)
    server = build_server(Tools(ToolService(segmenter, ImageReader(limits, files=not http), open_images), fetch))
    if http:
        max_body = limits.image_bytes * 4 // 3 + 2**20  # base64, and the words around it
        anyio.run(serve_http, server, host, port, names, max_body, lambda url: say(f"seglens: MCP at {url}"))
    else:
        anyio.run(server.run_stdio_async)


def _fetch(limits: Limits) -> Callable[[str], Awaitable[np.ndarray]]:
    from seglens.serving.http.fetch import Fetcher

    return Fetcher(limits).image
