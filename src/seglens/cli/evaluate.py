"""`seglens eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from seglens.cli.shared import AsJson, Device, Model, emit, load_segmenter


def evaluate(
    data: Annotated[str, typer.Option(help="A dataset with its options.")] = "world:n=500,seed=1",
    model: Model = "embedded",
    as_json: AsJson = False,
    records: Annotated[Path | None, typer.Option(help="Also write one JSON line per query here.")] = None,
    device: Device = "cpu",
) -> None:
    """gIoU, cIoU and P@0.5 by query kind and target size with 95 % intervals; keypoints; presence; on the world also
    the MLLM's answers and SAM alone."""
    from rich.console import Console
    from rich.progress import track

    from seglens.data import load_data
    from seglens.evaluation import as_json as lines
    from seglens.evaluation import run, summarise
    from seglens.files import write_atomic
    from seglens.report import print_report

    samples, segmenter = load_data(data), load_segmenter(model, device)
    console = Console(stderr=True)
    said = run(segmenter, track(samples, "segmenting", total=len(samples), console=console, disable=as_json))
    report = {"data": data, "model": model, **summarise(said), **_world_report(segmenter, samples)}
    if records is not None:
        write_atomic(records, "".join(json.dumps(r) + "\n" for r in lines(said)).encode())
    if as_json:
        emit(report)
    else:
        print_report(report)


def _world_report(segmenter: Any, samples: Any) -> dict[str, Any]:
    from seglens.data.world import WorldData
    from seglens.miniature.exam import prompts, vqa

    if not isinstance(samples, WorldData):
        return {}
    return {"vqa": vqa(segmenter.backbone, samples), "sam": prompts(segmenter.decoder, samples)}
