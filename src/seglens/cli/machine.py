"""`seglens doctor` and `seglens demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.shared import AsJson, emit


def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, devices, the embedded weights, and one real segmentation."""
    from seglens.backbones import hide_loading_bars
    from seglens.doctor import examine

    hide_loading_bars()
    report = examine()
    if as_json:
        emit(report)
    else:
        for check in report["checks"]:
            print(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['says']}")
    if not report["ok"]:
        raise SystemExit(1)


def demo(out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out/demo")) -> None:
    """A scene, queries of several kinds, a question: pictures on disk in seconds."""
    from seglens.backbones import hide_loading_bars
    from seglens.demo import show

    hide_loading_bars()
    show(out)
