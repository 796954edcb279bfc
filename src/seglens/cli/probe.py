"""`seglens probe`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seglens.cli.loading import load_mllm
from seglens.cli.options import AUTO, AsJson, Device, Overwrite
from seglens.cli.output import print_json
from seglens.core.progress import progress

if TYPE_CHECKING:
    from seglens.evaluation.layer_chart import Panel
    from seglens.evaluation.layer_probe import Curve

POINTING, LIFT = "#1f62a8", "#148460"  # colours of the two curves


def probe(
    backbone: Annotated[str, typer.Option(help="MLLM to measure: a folder or hub id.")],
    data: Annotated[
        str, typer.Option(help="Dataset with its options, with some hundred queries; not the one to report results on.")
    ],
    limit: Annotated[int | None, typer.Option(help="Only the first N images.")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side in pixels of the square image that the MLLM sees, where it can be chosen (Qwen-VL; tiles)."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for probe.json and its chart, probe.png (or a file NAME.json).")
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Find attention heads instead, and write them to this file: for --heads of the commands that "
            "segment without a trained head.",
        ),
    ] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    device: Device = AUTO,
) -> None:
    """Find the layer of a new MLLM that a head should read: the one whose attention locates targets best.

    It is measured by the pointing game; of the layers within one standard error of the best, the earliest is chosen.
    With --heads: find the attention heads that locate targets, and how much of their attention means that a target is
    in the picture."""
    from seglens.checkpoints.hub import hub_commit
    from seglens.checkpoints.origin import Origin
    from seglens.core.files import check_folder, check_free
    from seglens.data import load_data
    from seglens.data.dataset import faults_of
    from seglens.evaluation.layer_chart import check_charts
    from seglens.evaluation.layer_probe import check_limit
    from seglens.evaluation.layer_probe import probe as measure

    check_limit(limit)
    if heads is not None:
        if out is not None:
            raise ValueError("got --heads and --out; the first writes heads, the second the curve of layers: give one")
        return _heads(backbone, data, limit, image_size, heads, as_json, overwrite, device)
    samples = load_data(data)  # before a large model is loaded
    file = out if out is None or out.suffix == ".json" else out / "probe.json"
    if file is not None:  # what cannot be written is refused before the work
        check_charts()
        check_folder(file.parent)
        check_free([] if overwrite else [file, file.with_suffix(".png")])
    mllm = load_mllm(backbone, device=device, image_size=image_size)
    with progress("probing", len(samples) if limit is None else min(limit, len(samples)), hidden=as_json) as tick:
        curve = measure(mllm, samples, limit, tick)
    signature, origin = mllm.signature(), Origin.of(backbone, hub_commit(backbone))
    faults = [str(fault) for fault in faults_of(samples)]
    size = "" if image_size is None else f" --image-size {image_size}"
    chosen = f"--backbone {shlex.quote(backbone)} --layer {curve.chosen.layer}{size}"
    report: dict[str, Any] = {
        "backbone": {"name": origin.name, "revision": origin.revision},
        **{key: signature[key] for key in ("family", "image_size", "grid", "dtype")},
        "data": data,
        "limit": limit,
        "skipped": len(faults),
        "faults": faults,
        **curve.to_dict(),
        "use": f"seglens train {chosen if file is None else f'--probe {shlex.quote(str(file))}'} "
        "--decoder SAM --data DATA --out FOLDER",
    }
    files = {} if file is None else _write(file, report, curve)
    print_json({**report, "files": files}) if as_json else _print(report, curve, files)


def _heads(
    backbone: str,
    data: str,
    limit: int | None,
    image_size: int | None,
    file: Path,
    as_json: bool,
    overwrite: bool,
    device: str,
) -> None:
    from seglens.core.files import check_folder, check_free
    from seglens.data import load_data
    from seglens.evaluation.head_probe import find_heads

    samples = load_data(data)
    check_folder(file.parent)
    check_free([] if overwrite else [file])
    mllm = load_mllm(backbone, device=device, image_size=image_size)
    with progress("probing", len(samples) if limit is None else min(limit, len(samples)), hidden=as_json) as tick:
        choice = find_heads(mllm, samples, limit, tick, note={"data": data, "limit": limit})
    choice.save(file)
    if as_json:
        print_json({**asdict(choice), "file": str(file)})
        return
    for (layer, head), share in zip(choice.heads, choice.found["chosen"], strict=True):
        print(f"layer {layer}, head {head}: chosen by {share:.1%} of {choice.found['queries']} queries")
    found = choice.found
    kept_text = (
        f"{found['own_kept']:.1%} of a picture's own phrases kept, {found['others_refused']:.1%} of others refused"
    )
    presence_text = "presence is not known"
    if choice.mass is not None and choice.presence_head is not None:
        layer, head = choice.presence_head
        presence_text = f"present from a mass of {choice.mass:.3f} in layer {layer}, head {head} on"
    print(f"{presence_text} ({kept_text})")
    print(file)
    print(
        f"seglens segment IMAGE QUERY --backbone {shlex.quote(backbone)} --decoder SAM --heads {shlex.quote(str(file))}"
    )


def _panels(curve: Curve) -> list[Panel]:
    from seglens.evaluation.layer_chart import Panel

    scores = curve.scores
    return [
        Panel(
            "pointing game: share of queries whose strongest cell lies on the target",
            [s.pointing for s in scores],
            [s.interval for s in scores],
            curve.chance,
            f"a cell drawn blindly: {curve.chance:.3f}",
            POINTING,
        ),
        Panel(
            "attention on the target, relative to its area",
            [s.lift for s in scores],
            [s.lift_interval for s in scores],
            1.0,
            "attention spread evenly: 1",
            LIFT,
        ),
    ]


def _write(file: Path, report: dict[str, Any], curve: Curve) -> dict[str, str]:
    from seglens.core.files import write_atomic, write_json
    from seglens.core.png_files import marked_png
    from seglens.evaluation.layer_chart import draw

    picture = file.with_suffix(".png")
    title = f"{Path(report['backbone']['name']).name} ({report['family']}): read layer {report['layer']}"
    note = f"{report['queries']} queries about {report['images']} images of {report['data']}; bands: 95 % over images"
    drawn = draw(title, note, _panels(curve), curve.chosen.layer, curve.readable)
    write_atomic(picture, marked_png(drawn))
    write_json(file, report)
    return {"config": str(file), "curve": str(picture)}


def _print(report: dict[str, Any], curve: Curve, files: dict[str, str]) -> None:
    from seglens.evaluation.layer_chart import bars

    pointing, _ = _panels(curve)
    words = [f"{s.pointing:.3f} +- {s.error:.3f}   {s.lift:5.2f} x area" for s in curve.scores]
    print(
        f"{report['backbone']['name']}: {report['queries']} queries about {report['images']} images of {report['data']}"
    )
    print("layer, pointing-game rate with its standard error, attention on the target relative to its area")
    print("\n".join(bars(pointing, curve.chosen.layer, curve.readable, words)))
    print(f"blindly {curve.chance:.3f}, at most {curve.ceiling:.3f}; ", end="")
    if curve.best == curve.chosen:
        print(f"layer {curve.chosen.layer} points best, and no earlier one comes within a standard error")
    else:
        print(
            f"layer {curve.best.layer} points best; {curve.chosen.layer} is the earliest within a standard error of it"
        )
    if report["skipped"]:
        print(f"left out: {report['skipped']} bad records")
        print("\n".join(f"  {fault}" for fault in report["faults"]))
    for path in files.values():
        print(path)
    print(report["use"])
