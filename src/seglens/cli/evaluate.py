"""`seglens eval`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seglens.cli.shared import (
    AsJson,
    Overwrite,
    System,
    Thresholds,
    emit,
    load_segmenter,
    settled,
    tell_faults,
)
from seglens.core.files import check_free, write_atomic
from seglens.core.progress import progress

if TYPE_CHECKING:
    from seglens.core.distributed import Ranks
    from seglens.data import Dataset
    from seglens.data.faults import RecordFault
    from seglens.evaluation.records import Record
    from seglens.evaluation.shared_answers import AnswerJournal
    from seglens.inference.segmenter import Segmenter

MIOU = "miou"


def evaluate(
    system: System,
    thresholds: Thresholds,
    data: Annotated[str, typer.Option(help="A dataset with its options.")] = "world:n=500,seed=1",
    protocol: Annotated[
        str | None,
        typer.Option(help="world, lisa, gres, rec, fp-refcoco or miou; by default world for the world, else lisa."),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="For miou: the class names, one per line; by default the data's own.")
    ] = None,
    as_json: AsJson = False,
    records: Annotated[
        Path | None, typer.Option(help="Also write one JSON line per query here (miou: one per image).")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Also write every mask and its target here, as `seglens score` reads them.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """gIoU, cIoU and more with 95 % intervals, by a paper's protocol. On the world: by query kind and target size,
    keypoints, presence, the MLLM's answers and SAM alone. Under torchrun the processes share the work.

    What cannot be read is listed (exit code 1). With --records or --predictions, the same command goes on where one was
    stopped."""
    from seglens.core.distributed import joined
    from seglens.data import load_data
    from seglens.data.world import WorldData
    from seglens.evaluation.shared_answers import AnswerJournal

    samples = load_data(data)
    name = protocol or ("world" if isinstance(samples, WorldData) else "lisa")
    _check(name, classes, predictions)
    names = _class_names(samples, classes) if name == MIOU else []
    sure, files = thresholds.options(), [path for path in (predictions, records) if path is not None]
    settings = {**settled(system, thresholds), "data": data, "images": len(samples), "classes": names}
    with joined() as ranks:
        kept = AnswerJournal(
            files[0] if files else None, {**settings, "masks": predictions is not None}, ranks, overwrite
        )
        if not (overwrite or kept.parts()):
            check_free(files)
        segmenter = load_segmenter(system, **sure)
        with progress("segmenting", len(ranks.share(len(samples))), hidden=as_json or not ranks.first) as tick:
            if name == MIOU:
                found = _miou(segmenter, samples, names, ranks, tick, kept, records)
            else:
                found = _queries(segmenter, samples, name, ranks, tick, kept, records, predictions)
        if found is None:  # another rank's to tell
            return
        report, faults, damaged = found
        left_out = list(map(str, [*faults, *damaged]))
        skipped = {"skipped": len(left_out), "faults": left_out} if left_out else {"skipped": 0}
        world = _world_report(segmenter, samples) if name == "world" else {}
        _show({"data": data, "model": system.name, "protocol": name, **report, **skipped, **world}, as_json)
        kept.close()
        tell_faults(list(map(str, damaged)), f"of {len(samples)} images could not be evaluated")


def _check(name: str, classes: Path | None, predictions: Path | None) -> None:
    """Whatever can be refused is refused before a model is loaded."""
    from seglens.core.names import check_name
    from seglens.evaluation.protocols import PROTOCOLS
    from seglens.evaluation.summary import WORLD

    check_name(name, [WORLD, *PROTOCOLS, MIOU], "protocol")
    if name != MIOU and classes is not None:
        raise ValueError(f"--protocol {name} asks for no list of classes; give --protocol miou, or leave out --classes")
    if name == MIOU and predictions:
        raise ValueError("--protocol miou gives every pixel a class, so it has no --predictions")


def _class_names(samples: Dataset, file: Path | None) -> list[str]:
    """Those of the file, else the data's own."""
    from seglens.data.dataset import classes_of
    from seglens.data.reading import read_text
    from seglens.data.same_words import first_of_name

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
    segmenter: Segmenter,
    samples: Dataset,
    name: str,
    ranks: Ranks,
    tick: Callable[[], None],
    kept: AnswerJournal,
    records: Path | None,
    predictions: Path | None,
) -> tuple[dict[str, Any], list[RecordFault], list[RecordFault]] | None:
    from seglens.evaluation.evaluate import run_shared
    from seglens.evaluation.records import as_json, prediction_lines
    from seglens.evaluation.summary import results, understood

    files = {path: rows for path, rows in ((records, as_json), (predictions, prediction_lines)) if path is not None}
    if ranks.world == 1:
        for path in files:
            write_atomic(path, b"")

    def told(found: list[Record]) -> None:
        """For who looks on meanwhile: the files are made anew at the end."""
        for path, rows in files.items() if ranks.world == 1 else ():
            with path.open("ab") as file:
                file.write(_lines(rows(found)))

    said = run_shared(segmenter, samples, ranks, tick, predictions is not None, kept, told)
    if said is None:
        return None
    for path, rows in files.items():
        write_atomic(path, _lines(rows(said.records)))
    return {**results(said.records, name), "understood": understood(said.records)}, said.faults, said.damaged


def _miou(
    segmenter: Segmenter,
    samples: Dataset,
    names: list[str],
    ranks: Ranks,
    tick: Callable[[], None],
    kept: AnswerJournal,
    records: Path | None,
) -> tuple[dict[str, Any], list[RecordFault], list[RecordFault]] | None:
    from seglens.evaluation.open_vocabulary import class_report, image_lines, run_open_vocabulary

    found = run_open_vocabulary(segmenter, samples, names, ranks, tick, kept)
    if found is None:
        return None
    if records is not None:
        write_atomic(records, _lines(image_lines(found.table)))
    return class_report(found.table), found.faults, found.damaged


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _show(report: dict[str, Any], as_json: bool) -> None:
    from seglens.evaluation.report import print_report, print_results

    if as_json:
        emit(report)
    elif report["protocol"] == "world":
        print_report(report)
    else:
        print_results(report)


def _world_report(segmenter: Segmenter, samples: Dataset) -> dict[str, Any]:
    from seglens.data.world import WorldData
    from seglens.evaluation.embedded_checks import prompts, vqa

    if not isinstance(samples, WorldData):
        return {}
    return {
        "vqa": vqa(segmenter.backbone, samples),
        "sam": None if segmenter.decoder is None else prompts(segmenter.decoder, samples),
    }
