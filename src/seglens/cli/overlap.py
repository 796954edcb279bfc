"""`seglens data overlap`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.shared import AsJson, Overwrite, emit, say


def overlap(
    root: Annotated[Path, typer.Option(help="The folder that holds refcoco, refcoco+, refcocog, ...")],
    out: Annotated[
        Path | None, typer.Option(help="Also write the images to leave out of training, for exclude=.")
    ] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Which images of RefCOCO's training sets are in the val and test sets of its siblings. Needs no image on disk."""
    from seglens.data.refer import parts
    from seglens.data.split_leakage import report, save_keys, to_hold_out

    found = list(parts(root))
    told = report(found)
    if out is not None:
        save_keys(out, to_hold_out(found), overwrite)
    if as_json:
        emit(told)
        return
    for part in told["parts"]:
        print(f"{part['name']}: {part['images']} images")
    for row in told["overlaps"]:
        print(f"{row['train']}: {row['images']} of {row['of_train']} images are in {row['held_out']}")
    if not told["overlaps"]:
        print("no training set holds an image of a val or test set")
    if out is not None:
        say(f"{told['to_hold_out']} images in {out}; leave them out of training with exclude={out}")
