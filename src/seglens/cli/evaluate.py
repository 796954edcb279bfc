"""`seglens eval`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seglens.cli.loading import answer_settings, load_segmenter
from seglens.cli.options import AsJson, Overwrite, SegmenterOptions, Thresholds, Together
from seglens.cli.output import print_json, report_faults
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
    model_options: SegmenterOptions,
    thresholds: Thresholds,
    data: Annotated[
        str, typer.Option(help="Dataset with its options, as in coco:images=...,annotations=...")
    ] = "world:n=500,seed=1",
    protocol: Annotated[
        str | None,
        typer.Option(help="world, lisa, gres, rec, fp-refcoco or miou. Default: world for data 'world', else lisa."),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="For miou: file with the class names, one per line. Default: the data's own.")
    ] = None,
    as_json: AsJson = False,
    records: Annotated[
        Path | None, typer.Option(help="File to write one JSON line per query to (miou: one per image).")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="File to write every mask and its target to, as `seglens score` reads them.")
    ] = None,
    overwrite: Overwrite = False,
    together: Together = None,
) -> None:
    """Measure gIoU, cIoU and more, with 95 % intervals, by a paper's protocol.

    On the drawn world also by kind of query and size of target, with keypoints, presence, the MLLM's answers and SAM
    alone. Under torchrun the processes share the work.

    Images that cannot be read are listed (exit code 1). With --records or --predictions, the same command continues
    after an interruption."""
    from seglens.core.distributed import joined
    from seglens.data import load_data
    from seglens.data.world import WorldData
    from seglens.evaluation.shared_answers import AnswerJournal

    samples = load_data(data)
    name = protocol or ("world" if isinstance(samples, WorldData) else "lisa")
    _check(name, classes, predictions)
    names = _class_names(samples, classes) if name == MIOU else []
    threshold_arguments, files = thresholds.arguments(), [path for path in (predictions, records) if path is not None]
    settings = {**answer_settings(model_options, thresholds), "data": data, "images": len(samples), "classes": names}
    with joined() as ranks:
        journal = AnswerJournal(
            files[0] if files else None, {**settings, "masks": predictions is not None}, ranks, overwrite
        )
        if not (overwrite or journal.parts()):
            check_free(files)
        segmenter = load_segmenter(model_options, **threshold_arguments)
        with progress("segmenting", len(ranks.share(len(samples))), hidden=as_json or not ranks.first) as tick:
            if name == MIOU:
                outcome = _miou(segmenter, samples, names, ranks, tick, journal, records)
            else:
                outcome = _queries(segmenter, samples, name, ranks, tick, journal, records, predictions, together)
        if outcome is None:  # another rank reports
            return
        report, faults, damaged = outcome
        left_out = list(map(str, [*faults, *damaged]))
        skipped = {"skipped": len(left_out), "faults": left_out} if left_out else {"skipped": 0}
        world = _world_report(segmenter, samples) if name == "world" else {}
        _show({"data": data, "model": model_options.name, "protocol": name, **report, **skipped, **world}, as_json)
        journal.close()
        report_faults(list(map(str, damaged)), f"of {len(samples)} images could not be evaluated")


def _check(name: str, classes: Path | None, predictions: Path | None) -> None:
    """Report wrong options before a model is loaded."""
    from seglens.core.names import check_name
    from seglens.evaluation.protocols import PROTOCOLS
    from seglens.evaluation.summary import WORLD

    check_name(name, [WORLD, *PROTOCOLS, MIOU], "protocol")
    if name != MIOU and classes is not None:
        raise ValueError(f"--protocol {name} needs no list of classes; give --protocol miou, or leave out --classes")
    if name == MIOU and predictions:
        raise ValueError("--protocol miou gives every pixel a class, so it has no --predictions")


def _class_names(samples: Dataset, file: Path | None) -> list[str]:
    """Those of the file, else the data's own."""
    from seglens.data.dataset import classes_of
    from seglens.data.reading import read_text
    from seglens.data.same_words import first_of_name

    if file is not None:
        class_names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        first = first_of_name(dict(enumerate(class_names)))
        if twice := [class_names[at] for at, one in first.items() if at != one]:
            raise ValueError(f"{file} names {twice[0]!r} twice; each class needs its own name")
        return class_names
    names = list(classes_of(samples))
    if not names:
        raise ValueError("this data has no class names; give --classes FILE, a name per line")
    return names


def _queries(
    segmenter: Segmenter,
    samples: Dataset,
    name: str,
    ranks: Ranks,
    tick: Callable[[], None],
    journal: AnswerJournal,
    records: Path | None,
    predictions: Path | None,
    together: int | None,
) -> tuple[dict[str, Any], list[RecordFault], list[RecordFault]] | None:
    from seglens.evaluation.evaluate import run_shared
    from seglens.evaluation.records import as_json, prediction_lines
    from seglens.evaluation.summary import results, understood

    files = {path: rows for path, rows in ((records, as_json), (predictions, prediction_lines)) if path is not None}
    if ranks.world == 1:
        for path in files:
            write_atomic(path, b"")

    def append_records(more: list[Record]) -> None:
        """So that a user sees the rows meanwhile: at the end the files are written again."""
        for path, rows in files.items() if ranks.world == 1 else ():
            with path.open("ab") as file:
                file.write(_lines(rows(more)))

    outcome = run_shared(segmenter, samples, ranks, tick, predictions is not None, journal, append_records, together)
    if outcome is None:
        return None
    for path, rows in files.items():
        write_atomic(path, _lines(rows(outcome.records)))
    return (
        {**results(outcome.records, name), "understood": understood(outcome.records)},
        outcome.faults,
        outcome.damaged,
    )


def _miou(
    segmenter: Segmenter,
    samples: Dataset,
    names: list[str],
    ranks: Ranks,
    tick: Callable[[], None],
    journal: AnswerJournal,
    records: Path | None,
) -> tuple[dict[str, Any], list[RecordFault], list[RecordFault]] | None:
    from seglens.evaluation.open_vocabulary import class_report, image_lines, run_open_vocabulary

    outcome = run_open_vocabulary(segmenter, samples, names, ranks, tick, journal)
    if outcome is None:
        return None
    if records is not None:
        write_atomic(records, _lines(image_lines(outcome.table)))
    return class_report(outcome.table), outcome.faults, outcome.damaged


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _show(report: dict[str, Any], as_json: bool) -> None:
    from seglens.evaluation.report import print_report, print_results

    if as_json:
        print_json(report)
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
