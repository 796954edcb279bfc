"""`seglens world sample` and `seglens embedded build`, `ablate`, `table` and `unpack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.options import AsJson, Overwrite
from seglens.cli.output import print_json


def world_sample(
    n: Annotated[int, typer.Option(help="Number of scenes.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for images, masks and scenes.jsonl.")] = Path("out/world"),
    split: Annotated[str, typer.Option(help="Scenes for training or for tests: train or test.")] = "test",
    overwrite: Overwrite = False,
) -> None:
    """Write drawn scenes: PNG images and scenes.jsonl, which describes them, with masks as COCO RLE."""
    from seglens.embedded.scene_files import write_samples

    print(write_samples(n, seed, split, out, overwrite))


def embedded_build(
    out: Annotated[
        Path, typer.Option(help="Folder for checkpoints; the same command continues after an interruption.")
    ] = Path("runs/embedded"),
    weights: Annotated[Path, typer.Option(help="Folder for the finished weights.")] = Path("runs/embedded/weights"),
    stage: Annotated[
        list[str] | None, typer.Option(help="Only this stage. Repeatable, in order. Default: all.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Number of stages at a time; they share the cores.")] = 2,
) -> None:
    """Train the embedded models from random weights: two MLLMs, SAM, and a head for each method."""
    from seglens.embedded.build import NEEDS, build

    build(out, weights, stage or tuple(NEEDS), jobs)
    print(weights)


def embedded_ablate(
    out: Annotated[Path, typer.Option(help="Folder for results; finished rows are not computed again.")] = Path(
        "runs/ablate"
    ),
    weights: Annotated[
        Path | None, typer.Option(help="Folder with the frozen models. Default: the embedded ones.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps per row.")] = 300,
    jobs: Annotated[int, typer.Option(min=1, help="Number of rows at a time.")] = 2,
) -> None:
    """Compute Table 2 of LENS with the embedded models: one row per choice, all with one budget. Prints Markdown."""
    from seglens.embedded.ablations import ablate

    print(ablate(out, weights, steps, jobs))


def embedded_table(
    out: Annotated[
        Path, typer.Option(help="Folder for reports and tables; finished rows are not computed again.")
    ] = Path("runs/table"),
    weights: Annotated[
        Path | None, typer.Option(help="Folder with internvl/ and sam/. Default: the embedded ones.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps per row.")] = None,
    images: Annotated[int | None, typer.Option(help="Images per training step.")] = None,
    queries: Annotated[int | None, typer.Option(help="Queries for masks per image.")] = None,
    talk: Annotated[int | None, typer.Option(help="Questions per image with an answer in words.")] = None,
    scenes: Annotated[int | None, typer.Option(help="Scenes for the measurement.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of trainings of every row, each with its own seed.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Number of rows at a time.")] = 2,
    only: Annotated[str | None, typer.Option(help="Only this table: methods, mllmseg or self1e.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Compute nothing; print the finished rows.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare all methods on one MLLM, data and budget, and compute the ablations of MLLMSeg and SELF1E. Prints the
    tables in Markdown, and writes them to the folder, with table.json."""
    from seglens.embedded.comparison import tabulate
    from seglens.embedded.comparison_rows import Plan

    values = {"steps": steps, "images": images, "queries": queries, "talk": talk, "scenes": scenes}
    plan = Plan(**{name: value for name, value in values.items() if value is not None})
    tables = tabulate(out, weights, plan, seeds, jobs, only, show)
    if as_json:
        print_json(tables.to_dict())
    else:
        print(tables.markdown())


def embedded_unpack(
    out: Annotated[Path, typer.Argument(help="Folder in which each model gets its own folder.")],
) -> None:
    """Write the embedded models as folders in fp32 that transformers loads without SegLens. Prints each folder."""
    from seglens.checkpoints.origin import EMBEDDED, embedded_folder
    from seglens.model_files.int8_weights import PACKED, unpack_folder

    for packed in sorted(embedded_folder(EMBEDDED).parent.glob(f"*/{PACKED}")):
        unpack_folder(packed.parent, out / packed.parent.name)
        print(out / packed.parent.name)
