"""`seglens data overlap`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.options import AsJson, Overwrite
from seglens.cli.output import print_json, print_stderr


def overlap(
    root: Annotated[Path, typer.Option(help="Folder that contains refcoco, refcoco+, refcocog, ...")],
    out: Annotated[
        Path | None, typer.Option(help="File to write the images to that training must leave out; give it to exclude=.")
    ] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """List which training images of RefCOCO, RefCOCO+ and RefCOCOg are in the val and test sets of the others. Needs no
    image on disk."""
    from seglens.data.refer import parts
    from seglens.data.split_leakage import report, save_keys, to_hold_out

    splits = list(parts(root))
    overlaps = report(splits)
    if out is not None:
        save_keys(out, to_hold_out(splits), overwrite)
    if as_json:
        print_json(overlaps)
        return
    for part in overlaps["parts"]:
        print(f"{part['name']}: {part['images']} images")
    for row in overlaps["overlaps"]:
        print(f"{row['train']}: {row['images']} of {row['of_train']} images are in {row['held_out']}")
    if not overlaps["overlaps"]:
        print("no training set holds an image of a val or test set")
    if out is not None:
        print_stderr(f"{overlaps['to_hold_out']} images in {out}; leave them out of training with exclude={out}")
