"""`seglens segment` and `seglens ask`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.shared import (
    AsJson,
    JsonLines,
    Overwrite,
    System,
    Talking,
    Thresholds,
    Trust,
    emit_line,
    load_segmenter,
    printable,
    say,
    settled,
)
from seglens.core.progress import progress


def segment(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC... QUERY...",
            help="Images, folders of images, globs in quotes, videos, or - for an image on standard input; then what "
            "to segment, each query in quotes: more queries cost little more. The first word is a source, and so is "
            "every further one at the front that names a file or folder that is there, or ends as one does.",
        ),
    ],
    system: System,
    thresholds: Thresholds,
    query: Annotated[
        list[str] | None,
        typer.Option("--query", "-q", help="What to segment, as often as you like: all other words are then sources."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out"),
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="mask, overlay (these two by default), png (indexed), coco, coco-polygons, yolo, geojson, "
            "labelstudio; several are parted by commas.",
        ),
    ] = None,
    each: Annotated[
        bool | None,
        typer.Option("--each/--no-each", help="One mask per instance; else only where the words ask for it."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Of a video: the first frame and every so manieth after it.")] = 1,
    as_json: JsonLines = False,
    trust: Trust = False,
    overwrite: Overwrite = False,
) -> None:
    """Segment what the words mean: writes a lossless mask and an overlay per query, or the formats asked for.

    What cannot be read is listed at the end (exit code 1); all else is written, as it comes: the same command goes on
    where one was stopped. Files of other runs are never written over unasked, and the pictures themselves never."""
    from seglens.cli.arguments import part
    from seglens.cli.telling import ResultPrinter
    from seglens.exports import DEFAULT, Command, Export
    from seglens.exports.batch import BatchRun
    from seglens.inference.image_sources import Sources

    named, queries = part(words, query or ())
    sources, sure = Sources.of(named, every), thresholds.options()
    settings = {**settled(system, thresholds), "each": each, "trust": trust}
    command = Command(queries, settings, None if sources.root is None else str(sources.root))
    export = Export(out, _format_names(formats) or DEFAULT, command, sources.paths, overwrite)
    load = partial(load_segmenter, system, segmentation_only=True, **sure)
    batch, told = BatchRun(sources, command, export, load, each, trust), ResultPrinter(sources, as_json)
    batch.plan()
    with export, progress("segmenting", None if sources.alone else sources.total, hidden=sources.alone) as tick:
        for outcome in batch:
            told.outcome(outcome)
            tick()
    told.end(batch)


def _format_names(given: Sequence[str] | None) -> list[str]:
    names = [name.strip() for text in given or () for name in text.split(",")]
    return list(dict.fromkeys(name for name in names if name))


def ask(
    image: Annotated[str, typer.Argument(help="An image file, or - for one on standard input.")],
    words: Annotated[list[str], typer.Argument(metavar="QUESTION", help="A question about it, in quotes.")],
    loading: Talking,
    as_json: AsJson = False,
) -> None:
    """Ask the untouched multimodal LLM."""
    from seglens.cli.arguments import one_text
    from seglens.core.schema import AskLine
    from seglens.inference.image_sources import one_image

    question, pixels = one_text(words, "question"), one_image(image).pixels
    segmenter = load_segmenter(loading)
    told = segmenter.notice(pixels, question)
    answer = segmenter.backbone.generate(pixels, question)
    if as_json:
        emit_line(AskLine(image=printable(image), question=question, answer=answer, notice=told))
        return
    print(answer)
    if told is not None:
        say(told)
