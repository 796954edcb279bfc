"""`seglens eval`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seglens.cli.shared import AsJson, Loading, Thresholds, emit, load_segmenter, progress

if TYPE_CHECKING:
    from seglens.data import Dataset
    from seglens.data.records import Fault
    from seglens.ranks import Ranks
    from seglens.segmenter import Segmenter

MIOU = "miou"


def evaluate(
    loading: Loading,
    thresholds: Thresholds,
    data: Annotated[str, typer.Option(help="A dataset with its options.")] = "world:n=500,seed=1",
    protocol: Annotated[
        str | None,
        typer.Option(help="world, lisa, gres, fp-refcoco or miou; by default world for the world, else lisa."),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="For miou: the class names, one per line; by default the data's own.")
    ] = None,
    as_json: AsJson = False,
    records: Annotated[Path | None, typer.Option(help="Also write one JSON line per query here.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Also write every mask and its target here, as `seglens score` reads them.")
    ] = None,
) -> None:
    """gIoU, cIoU and more with 95 % intervals, by a paper's protocol. On the world: by query kind and target size,
    keypoints, presence, the MLLM's answers and SAM alone. Under torchrun the processes share the work."""
    from seglens.data import load_data
    from seglens.data.world import WorldData
    from seglens.ranks import joined

    samples = load_data(data)
    name = protocol or ("world" if isinstance(samples, WorldData) else "lisa")
    _check(name, classes, records, predictions)
    names = _class_names(samples, classes) if name == MIOU else []
    sure = thresholds.options()
    with joined() as ranks:
        segmenter = load_segmenter(replace(loading, device=ranks.device(loading.device)), **sure)
        with progress("segmenting", len(ranks.share(len(samples))), hidden=as_json or not ranks.first) as tick:
            if name == MIOU:
                found = _miou(segmenter, samples, names, ranks, tick)
            else:
                found = _queries(segmenter, samples, name, ranks, tick, records, predictions)
        if found is None:  # another rank's to tell
            return
        report, faults = found
        left_out = {"skipped": len(faults), "faults": [str(fault) for fault in faults]} if faults else {"skipped": 0}
        world = _world_report(segmenter, samples) if name == "world" else {}
        _show({"data": data, "model": loading.model, "protocol": name, **report, **left_out, **world}, as_json)


def _check(name: str, classes: Path | None, records: Path | None, predictions: Path | None) -> None:
    """Whatever can be refused is refused before a model is loaded."""
    from seglens.evaluation import WORLD
    from seglens.names import check_name
    from seglens.protocols import PROTOCOLS

    check_name(name, [WORLD, *PROTOCOLS, MIOU], "protocol")
    if name != MIOU and classes is not None:
        raise ValueError(f"--protocol {name} asks for no list of classes; give --protocol miou, or leave out --classes")
    if name == MIOU and (records or predictions):
        raise ValueError("--protocol miou gives every pixel a class, so it has no --records and no --predictions")


def _class_names(samples: Dataset, file: Path | None) -> list[str]:
    """Those of the file, else the data's own."""
    from seglens.data.dataset import classes_of
    from seglens.data.reading import read_text
    from seglens.data.wording import first_of_name

    if file is not None:
        said = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        first = first_of_name(dict(enumerate(said)))
        if twice := [said[at] for at, one in first.items() if at != one]:
            raise ValueError(f"{file} names {twice[0]!r} twice; a class needs one name of its own")
        return said
    names = list(classes_of(samples))
    if not names:
        raise ValueError("this data has no class names of its own; give --classes FILE, a name per line")
    return names


def _queries(
    segmenter: Segmenter, samples: Dataset, name: str, ranks: Ranks, tick: Callable[[], None],
    records: Path | None, predictions: Path | None,
) -> tuple[dict[str, Any], list[Fault]] | None:  # fmt: skip
    from seglens.evaluation import as_json, prediction_lines, results, run_shared, understood

    said = run_shared(segmenter, samples, ranks, tick, masks=predictions is not None)
    if said is None:
        return None
    if records is not None:
        _write(records, as_json(said.records))
    if predictions is not None:
        _write(predictions, prediction_lines(said.records))
    return {**results(said.records, name), "understood": understood(said.records)}, said.faults


def _miou(
    segmenter: Segmenter, samples: Dataset, names: list[str], ranks: Ranks, tick: Callable[[], None]
) -> tuple[dict[str, Any], list[Fault]] | None:
    from seglens.open_vocabulary import class_report, run_open_vocabulary

    found = run_open_vocabulary(segmenter, samples, names, ranks, tick)
    return None if found is None else (class_report(found[0]), found[1])


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    from seglens.files import write_atomic

    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _show(report: dict[str, Any], as_json: bool) -> None:
    from seglens.report import print_report, print_results

    if as_json:
        emit(report)
    elif report["protocol"] == "world":
        print_report(report)
    else:
        print_results(report)


def _world_report(segmenter: Segmenter, samples: Dataset) -> dict[str, Any]:
    from seglens.data.world import WorldData
    from seglens.miniature.exam import prompts, vqa

    if not isinstance(samples, WorldData):
        return {}
    return {
        "vqa": vqa(segmenter.backbone, samples),
        "sam": None if segmenter.decoder is None else prompts(segmenter.decoder, samples),
    }
