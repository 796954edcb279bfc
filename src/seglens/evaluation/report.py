"""An evaluation for people: the dictionary that `seglens eval --json` prints, as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 110  # characters, when the output is a file
COLUMNS = ("queries", "n", "gIoU", "95 %", "cIoU", "95 %", "P@0.5")


def print_report(report: Mapping[str, Any]) -> None:
    """The world's report: a row per kind and per size of target, then one line for each other part."""
    table = Table(*COLUMNS, title=f"{report['model']} on {report['data']}")
    sizes = {f"{size} targets": row for size, row in report["by_size"].items()}
    for name, row in {"all with a target": report["with_target"], **report["by_kind"], **sizes}.items():
        if row is not None:
            table.add_row(name, *_cells(row))
    console = _console()
    console.print(table)
    for part in ("keypoints", "presence", "understood", "vqa", "sam"):
        if part in report:
            console.print(f"{part}: {json.dumps(report[part])}")
    _print_skipped(console, report)


def print_results(report: Mapping[str, Any]) -> None:
    """A protocol's report: a row per number with its interval, a column per kind of query (or a row per class)."""
    parts = {"": report, **report.get("by_kind", {})}
    table = Table("", *(name or "all" for name in parts), title=f"{report['model']} on {report['data']}")
    for name, value in report.items():
        if value is None or (isinstance(value, int | float) and name != "skipped"):
            table.add_row(name, *(_number(part, name) for part in parts.values()))
    for name, value in report.get("by_class", {}).items():
        table.add_row(name, f"{value:.4f}")
    console = _console()
    console.print(table)
    if "understood" in report:
        console.print(f"understood: {json.dumps(report['understood'])}")
    _print_skipped(console, report)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _print_skipped(console: Console, report: Mapping[str, Any]) -> None:
    if report.get("skipped"):
        console.print(f"left out: {report['skipped']} bad records", style="bold", markup=False, highlight=False)
        for fault in report["faults"]:
            console.print(f"  {fault}", markup=False, highlight=False)


def _number(part: Mapping[str, Any], name: str) -> str:
    value, ends = part[name], part.get(f"{name}_95")
    if value is None:
        return "-"
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if ends is None else f"{text} ({ends[0]:.4f} to {ends[1]:.4f})"


def _cells(row: Mapping[str, Any]) -> list[str]:
    cells = [str(row["n"])]
    for name in ("gIoU", "cIoU"):
        low, high = row[f"{name}_95"]
        cells += [f"{row[name]:.3f}", f"{low:.3f} to {high:.3f}"]
    return [*cells, f"{row['P@0.5']:.3f}"]
