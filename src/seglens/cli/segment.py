"""`seglens segment` and `seglens ask`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.loading import answer_settings, load_segmenter
from seglens.cli.options import (
    AsJson,
    ChatModelOptions,
    JsonLines,
    Overwrite,
    SegmenterOptions,
    ShardOptions,
    Thresholds,
    Together,
    Trust,
)
from seglens.cli.output import print_json_line, print_stderr, printable
from seglens.core.progress import progress


def segment(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC... QUERY...",
            help="Images, folders of images, globs in quotes, videos, or - for an image on standard input; then the "
            "queries: what to segment, each in quotes (more queries cost little). The first argument is a source, and "
            "so is each following one that names an existing file or folder, or ends like one.",
        ),
    ],
    model_options: SegmenterOptions,
    thresholds: Thresholds,
    shards: ShardOptions,
    query: Annotated[
        list[str] | None,
        typer.Option(
            "--query", "-q", help="A query: what to segment. Repeatable; all other arguments are then sources."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out"),
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Formats to write, separated by commas: mask, overlay (these two by default), png (indexed), coco, "
            "coco-polygons, yolo, geojson, labelstudio; in shards: parquet or coco.",
        ),
    ] = None,
    each: Annotated[
        bool | None,
        typer.Option(
            "--each/--no-each",
            help="Also one mask per instance, or never. Default: where the query asks for it ('each cup').",
        ),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Of a video, use every N-th frame, from the first on.")] = 1,
    together: Together = None,
    workers: Annotated[
        int, typer.Option(min=1, help="How many processes share the images; each loads the model on the same device.")
    ] = 1,
    as_json: JsonLines = False,
    trust: Trust = False,
    overwrite: Overwrite = False,
) -> None:
    """Segment what queries in words mean: writes a lossless mask and an overlay per query, or other formats.

    Pictures that cannot be read are listed at the end (exit code 1), and the others are written one by one: after an
    interruption the same command continues. Files of other runs are replaced only with --overwrite, the pictures
    themselves never."""
    from seglens.cli.arguments import split_arguments
    from seglens.cli.result_printer import ResultPrinter
    from seglens.cli.segment_shards import in_shards, segment_shards, shard_run
    from seglens.exports import DEFAULT, Command, Export
    from seglens.exports.batch import BatchRun
    from seglens.exports.workers import WorkerRun, check_workers
    from seglens.inference.image_sources import Sources

    names, queries = split_arguments(words, query or ())
    threshold_arguments = thresholds.arguments()
    settings = {**answer_settings(model_options, thresholds), "each": each, "trust": trust}
    load = partial(load_segmenter, model_options, segmentation_only=True, **threshold_arguments)
    names_of_formats = _format_names(formats)
    if in_shards(names_of_formats, shards, workers):
        command = Command(queries, settings)
        run = shard_run(names, command, load, out, names_of_formats, shards.shard, together, overwrite)
        segment_shards(run, shards.actors(model_options.device), as_json)
        return
    sources = Sources.of(names, every)
    command = Command(queries, settings, None if sources.root is None else str(sources.root))
    export = Export(out, names_of_formats or DEFAULT, command, sources.paths, overwrite)
    batch, printer = BatchRun(sources, command, export, load, each, trust, together), ResultPrinter(sources, as_json)
    check_workers(sources, workers)
    batch.plan()
    report = lambda line: print_stderr(f"seglens: {line}")  # noqa: E731
    with export, progress("segmenting", None if sources.alone else sources.total, hidden=sources.alone) as tick:
        for outcome in batch if workers == 1 else WorkerRun(batch, workers, report):
            printer.outcome(outcome)
            tick()
    printer.end(batch)


def _format_names(texts: Sequence[str] | None) -> list[str]:
    names = [name.strip() for text in texts or () for name in text.split(",")]
    return list(dict.fromkeys(name for name in names if name))


def ask(
    image: Annotated[str, typer.Argument(help="An image file, or - for one on standard input.")],
    words: Annotated[list[str], typer.Argument(metavar="QUESTION", help="A question about the image, in quotes.")],
    model_options: ChatModelOptions,
    as_json: AsJson = False,
) -> None:
    """Ask the multimodal LLM a question about an image: it answers as it would without SegLens."""
    from seglens.cli.arguments import one_text
    from seglens.core.schema import AskLine
    from seglens.inference.image_sources import one_image

    question, pixels = one_text(words, "question"), one_image(image).pixels
    segmenter = load_segmenter(model_options)
    notice = segmenter.notice(pixels, question)
    answer = segmenter.backbone.generate(pixels, question)
    if as_json:
        print_json_line(AskLine(image=printable(image), question=question, answer=answer, notice=notice))
        return
    print(answer)
    if notice is not None:
        print_stderr(notice)
