"""`seglens mcp`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

import typer

from seglens.cli.loading import load_segmenter
from seglens.cli.options import ChatSegmenterOptions, Thresholds
from seglens.cli.output import print_stderr

if TYPE_CHECKING:
    import numpy as np

    from seglens.serving.limits import Limits


def mcp(
    model_options: ChatSegmenterOptions,
    thresholds: Thresholds,
    http: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Serve streamable HTTP at this address; a PORT alone: for this machine only. Default: standard "
            "input and output.",
        ),
    ] = "",
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Host name by which other machines reach it over HTTP. Repeatable.")
    ] = None,
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Fetch images from public https addresses.")] = False,
    open_images: Annotated[int, typer.Option(help="Number of images that stay open for further questions.")] = 8,
) -> None:
    """Serve tools to an agent: an MCP server on standard input and output, or over HTTP."""
    import anyio

    from seglens.serving.limits import Limits
    from seglens.serving.tools.mcp import Tools, build_server
    from seglens.serving.tools.mcp_http import parse_address, security, serve_http
    from seglens.serving.tools.tool_images import ImageReader
    from seglens.serving.tools.tool_service import ToolService

    limits, names, threshold_arguments = Limits(), allow_host or [], thresholds.arguments()
    host, port = parse_address(http) if http else ("", 0)
    if http:
        security(host, names)  # before the model is loaded: a wrong address is reported at once
    fetch = _fetch(limits) if allow_urls else None
    with redirect_stdout(sys.stderr):  # standard output belongs to the protocol
        segmenter = load_segmenter(model_options, **threshold_arguments)
    server = build_server(Tools(ToolService(segmenter, ImageReader(limits, files=not http), open_images), fetch))
    if http:
        max_body = limits.image_bytes * 4 // 3 + 2**20  # base64, and the rest of the request
        anyio.run(serve_http, server, host, port, names, max_body, lambda url: print_stderr(f"seglens: MCP at {url}"))
    else:
        anyio.run(server.run_stdio_async)


def _fetch(limits: Limits) -> Callable[[str], Awaitable[np.ndarray]]:
    from seglens.serving.http.fetch import Fetcher

    return Fetcher(limits).image
