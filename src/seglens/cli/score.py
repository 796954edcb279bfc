"""`seglens score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from seglens.cli.shared import emit

Bad = Literal["refuse", "skip"]  # `data.records.Bad`, which would bring numpy along


def score(
    predictions: Annotated[
        Path,
        typer.Argument(
            help="JSON lines: id, prediction and target (COCO run lengths), optional ignore, no_target, box."
        ),
    ],
    protocol: Annotated[str, typer.Option(help="lisa, gres, rec or fp-refcoco.")] = "lisa",
    against: Annotated[
        Path | None,
        typer.Option(help="Other predictions of the same samples: the difference, PREDICTIONS minus these."),
    ] = None,
    bad: Annotated[Bad, typer.Option(help="refuse, or skip bad lines and name them in the report.")] = "refuse",
) -> None:
    """Score anybody's masks by a paper's protocol; no model is needed. Prints JSON with shares of one."""
    from seglens.evaluation.protocols import find_protocol
    from seglens.evaluation.score import compare, read_predictions
    from seglens.evaluation.score import score as scores

    find_protocol(protocol)  # a wrong name is told before a long file is read
    first = read_predictions(predictions, bad)
    if against is None:
        emit(scores(first, protocol))
    else:
        emit(compare(first, read_predictions(against, bad), protocol))
