"""`seglens page`."""

from __future__ import annotations

import socket
from threading import Event
from typing import Annotated

import typer

from seglens.cli.loading import load_segmenter
from seglens.cli.options import ChatSegmenterOptions, Thresholds
from seglens.cli.output import print_stderr


def page(
    model_options: ChatSegmenterOptions,
    thresholds: Thresholds,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines, too.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port to listen on. Default: the first free one from 7860 on.")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the page in a browser.")] = False,
) -> None:
    """Serve a web page: a picture, a chat about it, and masks to look at, to correct by clicks and to download."""
    if port is not None:
        _check_free(host, port)  # before a model is loaded, which can take minutes
    try:
        from seglens.serving.web.launch import build, launch
        from seglens.serving.web.page_limits import PageLimits
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError("the page needs gradio; run: pip install 'seglens[page]'") from error
    limits, threshold_arguments = PageLimits(), thresholds.arguments()
    blocks = build(load_segmenter(model_options, **threshold_arguments), model_options.name, limits)
    print(f"SegLens is at {launch(blocks, limits, host=host, port=port, browser=not no_open)}", flush=True)
    print_stderr("Press Ctrl+C to stop.")
    try:
        Event().wait()
    finally:
        blocks.close(verbose=False)


def _check_free(host: str, port: int) -> None:
    """Raises OSError when the address cannot be used."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        text = f"cannot listen on port {port} of {host} ({error}); give another --port, or none for the first free one"
        raise OSError(text) from error
