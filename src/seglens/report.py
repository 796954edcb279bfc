"""An evaluation for people: the dictionary that `seglens eval --json` prints, as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 110  # when the output is a file, whose width nobody knows
COLUMNS = ("queries", "n", "gIoU", "95 %", "cIoU", "95 %", "P@0.5")


def print_report(report: Mapping[str, Any]) -> None:
    """A row per kind and per size of target, then the rest in a line each."""
    table = Table(*COLUMNS, title=f"{report['model']} on {report['data']}")
    sizes = {f"{size} targets": row for size, row in report["by_size"].items()}
    for name, row in {"all with a target": report["with_target"], **report["by_kind"], **sizes}.items():
        if row is not None:
            table.add_row(name, *_cells(row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table)
    for part in ("keypoints", "presence", "vqa", "sam"):
        if part in report:
            console.print(f"{part}: {json.dumps(report[part])}")


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = [str(row["n"])]
    for name in ("gIoU", "cIoU"):
        low, high = row[f"{name}_95"]
        cells += [f"{row[name]:.3f}", f"{low:.3f} to {high:.3f}"]
    return [*cells, f"{row['P@0.5']:.3f}"]
