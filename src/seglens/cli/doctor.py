"""`seglens doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.options import AsJson
from seglens.cli.output import print_json


def doctor(
    mllm: Annotated[
        list[str] | None,
        typer.Option(help="An MLLM (folder, config file or hub id): print its size and costs instead. Repeatable."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="With --mllm: the layer whose hidden states are read; default its own.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="With --mllm: side of the square image it is shown, in pixels; default its own.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte of the published heads that were converted here, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check this machine, or compute what an MLLM needs.

    Checks versions and which of them were tested, devices, the embedded weights, and one real segmentation. With
    --mllm: prints a Markdown table of the sizes of MLLMs and their memory, computed from their configs alone."""
    from seglens.backbones import hide_loading_bars

    hide_loading_bars()
    if mllm:
        return _print_costs(mllm, layer, image_size, as_json)
    from seglens.cli.doctor_checks import examine

    report = examine(verify)
    if as_json:
        print_json(report)
    else:
        for check in report["checks"]:
            print(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['says']}")
            if check["remedy"]:
                print(f"     what to do: {check['remedy']}")
    if not report["ok"]:
        raise SystemExit(1)


def _located(mllm: str) -> str:
    """A path or a hub id as it is; of the package's own MLLMs the folder."""
    from seglens.checkpoints.origin import Origin

    return mllm if Path(mllm).exists() else Origin(mllm).resolve()


def _print_costs(mllms: Sequence[str], layer: int | None, image_size: int | None, as_json: bool) -> None:
    from seglens.evaluation.costs import table, work_out

    costs = [work_out(_located(name), layer=layer, image_size=image_size) for name in mllms]
    if as_json:
        print_json([one.to_dict() for one in costs] if len(costs) > 1 else costs[0].to_dict())
    else:
        print(table(costs))
