"""`seglens doctor` and `seglens tour`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.shared import AsJson, Overwrite, emit


def doctor(
    model: Annotated[
        list[str] | None, typer.Option(help="An MLLM (folder, config file or hub id): tell its size and costs instead.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="With --model: read it there instead of at its default.")] = None,
    image_size: Annotated[int | None, typer.Option(help="With --model: side of its canvas in pixels.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine: versions and which of them were tested, devices, the embedded weights, and one real
    segmentation. With --model (as often as you like), a Markdown table of what models need, from their configs
    alone."""
    from seglens.backbones import hide_loading_bars

    hide_loading_bars()
    if model:
        return _tell_costs(model, layer, image_size, as_json)
    from seglens.cli.doctor_checks import examine

    report = examine()
    if as_json:
        emit(report)
    else:
        for check in report["checks"]:
            print(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['says']}")
            if check["remedy"]:
                print(f"     what to do: {check['remedy']}")
    if not report["ok"]:
        raise SystemExit(1)


def _tell_costs(models: Sequence[str], layer: int | None, image_size: int | None, as_json: bool) -> None:
    from seglens.evaluation.costs import table, work_out

    costs = [work_out(name, layer=layer, image_size=image_size) for name in models]
    if as_json:
        emit([one.to_dict() for one in costs] if len(costs) > 1 else costs[0].to_dict())
    else:
        print(table(costs))


def tour(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out/demo"), overwrite: Overwrite = False
) -> None:
    """A scene, queries of several kinds, a question: pictures on disk in seconds."""
    from seglens.backbones import hide_loading_bars
    from seglens.cli.tour import show

    hide_loading_bars()
    show(out, overwrite)
