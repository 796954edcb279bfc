"""`seglens page`."""

from __future__ import annotations

import socket
from threading import Event
from typing import Annotated

import typer

from seglens.cli.shared import TalkingSystem, Thresholds, load_segmenter, say


def page(
    system: TalkingSystem,
    thresholds: Thresholds,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 7860 on.")] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the page in a browser.")] = False,
) -> None:
    """A web page: a picture, a talk about it, masks to look at, to correct by clicks and to take away."""
    if port is not None:
        _check_free(host, port)  # before a model is loaded, which may take minutes
    try:
        from seglens.serving.web.launch import build, launch
        from seglens.serving.web.page_limits import PageLimits
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError("the page needs gradio; run: pip install 'seglens[page]'") from error
    limits, sure = PageLimits(), thresholds.options()
    blocks = build(load_segmenter(system, **sure), system.name, limits)
    print(f"SegLens is at {launch(blocks, limits, host=host, port=port, browser=not no_open)}", flush=True)
    say("Press Ctrl+C to stop.")
    try:
        Event().wait()
    finally:
        blocks.close(verbose=False)


def _check_free(host: str, port: int) -> None:
    """Raises OSError when nobody can listen there."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        said = f"cannot listen on port {port} of {host} ({error}); give another --port, or none for the first free one"
        raise OSError(said) from error
