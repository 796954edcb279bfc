"""`seglens demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.options import Overwrite


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out/demo"), overwrite: Overwrite = False
) -> None:
    """Segment a drawn scene by queries of several kinds and ask a question about it: pictures on disk in seconds."""
    from seglens.backbones import hide_loading_bars
    from seglens.cli.demo_pictures import show

    hide_loading_bars()
    show(out, overwrite)
