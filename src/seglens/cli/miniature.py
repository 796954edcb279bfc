"""`seglens world sample` and `seglens miniature build`, `ablate` and `unpack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def world_sample(
    n: Annotated[int, typer.Option(help="Number of scenes.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the scenes.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for images, masks and scenes.jsonl.")] = Path("out/world"),
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
) -> None:
    """Write scenes: PNG images and a JSONL of all that is true of them, masks as COCO RLE."""
    from seglens.miniature.sample import write_samples

    print(write_samples(n, seed, split, out))


def miniature_build(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints; the same command resumes.")] = Path(
        "runs/miniature"
    ),
    weights: Annotated[Path, typer.Option(help="Folder for the finished weights.")] = Path("runs/miniature/weights"),
    stage: Annotated[list[str] | None, typer.Option(help="Only these stages, in order; default all.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Stages side by side; each gets its share of the cores.")] = 2,
) -> None:
    """Train the MLLM, SAM and the head from nothing: vision, language, alignment, joint, sam, head."""
    from seglens.miniature.build import NEEDS, build

    build(out, weights, stage or tuple(NEEDS), jobs)
    print(weights)


def miniature_ablate(
    out: Annotated[Path, typer.Option(help="Folder for results; finished rows are kept.")] = Path("runs/ablate"),
    weights: Annotated[Path | None, typer.Option(help="Frozen parts; default the embedded ones.")] = None,
    steps: Annotated[int, typer.Option(help="Steps per row.")] = 300,
    jobs: Annotated[int, typer.Option(min=1, help="Rows side by side.")] = 2,
) -> None:
    """Table 2 of LENS in the miniature: one row per choice, the same budget for each. Prints a Markdown table."""
    from seglens.miniature.ablate import ablate

    print(ablate(out, weights, steps, jobs))


def miniature_unpack(out: Annotated[Path, typer.Argument(help="A folder for each model goes here.")]) -> None:
    """Write the embedded models as plain folders in fp32, for bare transformers. Prints each folder."""
    from seglens.checkpoint import EMBEDDED, embedded_folder
    from seglens.packed import PACKED, unpack_folder

    for packed in sorted(embedded_folder(EMBEDDED).parent.glob(f"*/{PACKED}")):
        unpack_folder(packed.parent, out / packed.parent.name)
        print(out / packed.parent.name)
