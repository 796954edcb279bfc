"""`seglens score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from seglens.cli.output import print_json

Bad = Literal["refuse", "skip"]  # `data.records.Bad`, which would bring numpy along


def score(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="File of JSON lines: id, prediction and target (COCO run lengths), optional ignore, no_target, box."
        ),
    ],
    protocol: Annotated[str, typer.Option(help="lisa, gres, rec or fp-refcoco.")] = "lisa",
    against: Annotated[
        Path | None,
        typer.Option(help="Other predictions of the same samples: report the difference, PREDICTIONS minus these."),
    ] = None,
    bad: Annotated[
        Bad, typer.Option(help="Bad lines: refuse the file, or skip them and list them in the report.")
    ] = "refuse",
) -> None:
    """Score the masks of any program by a paper's protocol; no model is needed. Prints JSON with scores from 0 to 1."""
    from seglens.evaluation.protocols import find_protocol
    from seglens.evaluation.score import compare, read_predictions
    from seglens.evaluation.score import score as scores

    find_protocol(protocol)  # a wrong name is reported before a long file is read
    first = read_predictions(predictions, bad)
    if against is None:
        print_json(scores(first, protocol))
    else:
        print_json(compare(first, read_predictions(against, bad), protocol))
