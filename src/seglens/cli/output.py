"""How commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from seglens.core.text import shortened

if TYPE_CHECKING:
    from pydantic import BaseModel

    from seglens.core.schema import Answer
    from seglens.inference.prediction import Prediction


def print_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def print_left_out(faults: Sequence[str], of: str = "") -> None:
    """How many bad records a dataset leaves out, and the first of them."""
    if faults:
        print_stderr(f"left out{of}: {len(faults)} bad records: {shortened(faults, 3)}")


def report_faults(faults: Sequence[str], could_not: str, count: int | None = None) -> None:
    """Each fault on its own line, at the end of a command that did the rest; `count` is the number of items that they
    concern, where it is not one item each. Raises typer.Exit when there are any."""
    if faults:
        print_stderr(f"seglens: {len(faults) if count is None else count} {could_not}:")
        for fault in faults:
            print_stderr(f"  {' '.join(fault.split())}")
        raise typer.Exit(1)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_json_line(line: BaseModel) -> None:
    """A line of JSON on standard output, at once."""
    text = json.dumps(line.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    print(printable(text), flush=True)


def printable(text: str) -> str:
    """Names of files may contain bytes that are no text: these are written as backslashes and digits."""
    return text.encode("utf-8", "backslashreplace").decode()


def not_found_text(prediction: Prediction | Answer) -> str:
    """For a query that was not found: the reason, on one line."""
    return f"not found. {prediction.reason or ''}".strip()
