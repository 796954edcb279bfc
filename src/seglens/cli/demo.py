"""`seglens demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.loading import load_segmenter
from seglens.cli.options import Overwrite, SegmenterOptions


def demo(
    model_options: SegmenterOptions,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out/demo"),
    overwrite: Overwrite = False,
) -> None:
    """Segment a drawn scene by queries of several kinds and ask a question about it: pictures on disk in seconds."""
    from seglens.cli.demo_pictures import show

    show(load_segmenter(model_options), out, overwrite)
