"""What commands share: options, printing, loading."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from seglens.backbones import Backbone
    from seglens.prediction import Prediction
    from seglens.segmenter import Segmenter

Model = Annotated[str, typer.Option("--model", help="A head folder, a hub id, or 'embedded'.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps, ...")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Show the mask in spite of an unfamiliar picture or unknown words.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def say(text: str) -> None:
    print(text, file=sys.stderr)


def say_left_out(faults: Sequence[str], of: str = "", shown: int = 3) -> None:
    """How many bad records a dataset leaves out, and the first of them."""
    if faults:
        more = f"; and {len(faults) - shown} more" if len(faults) > shown else ""
        say(f"left out{of}: {len(faults)} bad records: {'; '.join(faults[:shown])}{more}")


def emit(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def why_not(prediction: Prediction) -> str:
    """Of a query that was not found: the reason, after the query, on one line."""
    return f"not found. {prediction.reason or ''}".strip()


@contextmanager
def progress(doing: str, total: int | None, hidden: bool) -> Iterator[Callable[..., None]]:
    """A bar on standard error, and what moves it on: by one, or by as many as it is told. None: nobody knows how many
    there will be."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # rich would send what is printed to the bar's own stream, and a pipe behind standard output would stay empty.
    together = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=hidden, redirect_stdout=together) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda done=1: bar.advance(task, done)


def load_segmenter(model: str, device: str, **options: Any) -> Segmenter:
    from seglens.backbones import hide_loading_bars
    from seglens.segmenter import Segmenter

    hide_loading_bars()
    return Segmenter.from_pretrained(model, device=device, **options)


def load_mllm(name: str, device: str, **options: Any) -> Backbone:
    """An MLLM without a head: in fp32 on a CPU, elsewhere as its files are."""
    import torch

    from seglens.backbones import hide_loading_bars, load_backbone
    from seglens.checkpoint import Origin
    from seglens.parts import usable_device

    hide_loading_bars()
    where = usable_device(device)
    loaded = load_backbone(Origin.of(name).resolve(), dtype=torch.float32 if where.type == "cpu" else "auto", **options)
    loaded.module.to(where)
    return loaded
