"""`seglens segment` and `seglens ask`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seglens.cli.shared import AsJson, Loading, Thresholds, Trust, emit, load_segmenter, progress, say, why_not

if TYPE_CHECKING:
    from seglens.exports import Page
    from seglens.prediction import Prediction
    from seglens.segmenter import Segmenter
    from seglens.sources import BadImage, NamedImage, Sources


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
    loading: Loading,
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; of anything but one image: a line per query and image.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Segment what the words mean: writes a lossless mask and an overlay per query, or the formats asked for.

    What cannot be read is listed at the end (exit code 1); all else is written."""
    from seglens.arguments import part
    from seglens.exports import DEFAULT, Export
    from seglens.sources import BadImage, Sources

    named, queries = part(words, query or ())
    sources = Sources.of(named, every)
    export = Export(out, _format_names(formats) or DEFAULT)
    sure = thresholds.options()
    images = _checked(sources)  # before the model is loaded: a wrong name is told at once
    segmenter = load_segmenter(loading, segmentation_only=True, **sure)
    told = _Told(sources, as_json)
    with export, progress("segmenting", None if sources.alone else sources.total, hidden=sources.alone) as tick:
        for image in images:
            page = _page(segmenter, image, queries, each, trust, sources.root)
            if isinstance(page, BadImage):
                told.bad(page)
            else:
                told.answers(image.shown, page.predictions, export.add(page))
            tick()
    told.end()


def _format_names(given: Sequence[str] | None) -> list[str]:
    names = [name.strip() for text in given or () for name in text.split(",")]
    return list(dict.fromkeys(name for name in names if name))


def _checked(sources: Sources) -> Iterator[NamedImage | BadImage]:
    """All images, of which the first is read now."""
    from seglens.data.images import ImageError
    from seglens.sources import BadImage

    images = iter(sources)
    first = next(images)
    if sources.alone and isinstance(first, BadImage):
        raise ImageError(first.says)
    return itertools.chain([first], images)


def _page(
    segmenter: Segmenter, image: NamedImage | BadImage, queries: list[str], each: bool | None, trust: bool,
    root: Path | None,
) -> Page | BadImage:  # fmt: skip
    """What is found in an image; one that the model cannot open is a bad one too. A bad query is an error."""
    from seglens.exports import Page
    from seglens.sources import BadImage

    if isinstance(image, BadImage):
        return image
    try:
        opened = segmenter.open(image.pixels)
    except ValueError as error:
        return BadImage(image.shown, f"{image.shown!r}: {error}")
    file = None if image.file is None or root is None else image.file.absolute().relative_to(root).as_posix()
    return Page(image.name, opened.segment(queries, each, trust), file)


class _Told:
    """What the user is told: answers on standard output as they come, what went wrong at the end."""

    def __init__(self, sources: Sources, as_json: bool):
        self.alone, self.left_out, self.as_json = sources.alone, sources.left_out, as_json
        self.images = 0
        self.faults: list[BadImage] = []

    def answers(self, image: str, predictions: Sequence[Prediction], files: Sequence[dict[str, Path]]) -> None:
        self.images += 1
        if not self.as_json:
            for one, written in zip(predictions, files, strict=True):
                print(("" if self.alone else f"{image}: ") + _line(one, written), flush=True)
            return
        said = [
            {"image": image, **one.to_dict(), "files": {kind: str(path) for kind, path in written.items()}}
            for one, written in zip(predictions, files, strict=True)
        ]
        if self.alone:
            emit(said[0] if len(said) == 1 else said)
        else:
            self._lines(said)

    def bad(self, one: BadImage) -> None:
        self.images += 1
        self.faults.append(one)
        if self.as_json and not self.alone:
            self._lines([{"image": one.shown, "error": one.says}])

    def end(self) -> None:
        """Raises typer.Exit when something went wrong."""
        from seglens.finding import told

        if self.left_out:
            say(f"seglens: left out: {told(self.left_out)}")
        if self.faults:
            say(f"seglens: {len(self.faults)} of {self.images} images could not be segmented:")
            for one in self.faults:
                say(f"  {' '.join(one.says.split())}")
            raise typer.Exit(1)

    @staticmethod
    def _lines(values: Sequence[dict[str, Any]]) -> None:
        for value in values:
            print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)


def _line(prediction: Prediction, files: dict[str, Path]) -> str:
    paths = ", ".join(map(str, dict.fromkeys(files.values())))
    if not prediction.found:
        return f"{prediction.query}: {why_not(prediction)} {paths}"
    presence = "" if prediction.presence is None else f" (presence {prediction.presence:.2f})"
    several = f", {len(prediction.instances)} instances" if prediction.instances else ""
    return f"{prediction.query}: found, score {prediction.score:.2f}{presence}{several}; {paths}"


def ask(
    image: Annotated[str, typer.Argument(help="An image file, or - for one on standard input.")],
    words: Annotated[list[str], typer.Argument(metavar="QUESTION", help="A question about it, in quotes.")],
    loading: Loading,
    as_json: AsJson = False,
) -> None:
    """Ask the untouched multimodal LLM."""
    from seglens.arguments import one_text
    from seglens.sources import read_one

    question, pixels = one_text(words, "question"), read_one(image)
    segmenter = load_segmenter(loading)
    told = segmenter.notice(pixels, question)
    answer = segmenter.backbone.generate(pixels, question)
    if as_json:
        emit({"image": image, "question": question, "answer": answer, "notice": told})
        return
    print(answer)
    if told is not None:
        say(told)
