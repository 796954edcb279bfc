"""`seglens world sample` and `seglens embedded build`, `ablate`, `table` and `unpack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.shared import AsJson, Overwrite, emit


def world_sample(
    n: Annotated[int, typer.Option(help="Number of scenes.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the scenes.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for images, masks and scenes.jsonl.")] = Path("out/world"),
    split: Annotated[str, typer.Option(help="train or test.")] = "test",
    overwrite: Overwrite = False,
) -> None:
    """Write scenes: PNG images and a JSONL of all that is true of them, masks as COCO RLE."""
    from seglens.embedded.scene_files import write_samples

    print(write_samples(n, seed, split, out, overwrite))


def embedded_build(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints; the same command resumes.")] = Path(
        "runs/embedded"
    ),
    weights: Annotated[Path, typer.Option(help="Folder for the finished weights.")] = Path("runs/embedded/weights"),
    stage: Annotated[list[str] | None, typer.Option(help="Only these stages, in order; default all.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Stages side by side; each gets its share of the cores.")] = 2,
) -> None:
    """Train the embedded models from nothing: two MLLMs, SAM, and a head for each method."""
    from seglens.embedded.build import NEEDS, build

    build(out, weights, stage or tuple(NEEDS), jobs)
    print(weights)


def embedded_ablate(
    out: Annotated[Path, typer.Option(help="Folder for results; finished rows are kept.")] = Path("runs/ablate"),
    weights: Annotated[Path | None, typer.Option(help="Frozen parts; default the embedded ones.")] = None,
    steps: Annotated[int, typer.Option(help="Steps per row.")] = 300,
    jobs: Annotated[int, typer.Option(min=1, help="Rows side by side.")] = 2,
) -> None:
    """Table 2 of LENS with the embedded models: a row per choice, the same budget for each; prints Markdown."""
    from seglens.embedded.ablations import ablate

    print(ablate(out, weights, steps, jobs))


def embedded_table(
    out: Annotated[Path, typer.Option(help="Folder for reports and tables; finished rows are kept.")] = Path(
        "runs/table"
    ),
    weights: Annotated[Path | None, typer.Option(help="A folder with internvl/ and sam/; default our own.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps per row.")] = None,
    images: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    queries: Annotated[int | None, typer.Option(help="Queries for masks per image.")] = None,
    talk: Annotated[int | None, typer.Option(help="Questions per image that are answered in words.")] = None,
    scenes: Annotated[int | None, typer.Option(help="Scenes of the exam.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of every row.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Rows side by side.")] = 2,
    only: Annotated[str | None, typer.Option(help="One table: methods, mllmseg or self1e.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Run nothing; print what is finished.")] = False,
    as_json: AsJson = False,
) -> None:
    """All methods on one MLLM, one data and one budget, and the ablations of MLLMSeg and SELF1E. Prints the tables in
    Markdown; they are also kept in the folder, with table.json."""
    from seglens.embedded.comparison import Plan, tabulate

    given = {"steps": steps, "images": images, "queries": queries, "talk": talk, "scenes": scenes}
    plan = Plan(**{name: value for name, value in given.items() if value is not None})
    found = tabulate(out, weights, plan, seeds, jobs, only, show)
    if as_json:
        emit(found.to_dict())
    else:
        print(found.markdown())


def embedded_unpack(out: Annotated[Path, typer.Argument(help="A folder for each model goes here.")]) -> None:
    """Write the embedded models as plain folders in fp32, for bare transformers. Prints each folder."""
    from seglens.checkpoints.origin import EMBEDDED, embedded_folder
    from seglens.model_files.int8_weights import PACKED, unpack_folder

    for packed in sorted(embedded_folder(EMBEDDED).parent.glob(f"*/{PACKED}")):
        unpack_folder(packed.parent, out / packed.parent.name)
        print(out / packed.parent.name)
