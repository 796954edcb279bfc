"""`seglens refine`: a mask by words, then corrected by clicks and a box."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seglens.cli.loading import answer_settings, load_segmenter
from seglens.cli.options import JsonLines, Overwrite, SegmenterOptions, Thresholds, Trust
from seglens.cli.output import not_found_text, print_json_line, printable

if TYPE_CHECKING:
    from seglens.core.schema import Box, Click
    from seglens.inference.prediction import Prediction


def refine(
    image: Annotated[str, typer.Argument(help="An image file, or - for one on standard input.")],
    words: Annotated[list[str], typer.Argument(metavar="QUERY", help="The query: what to segment, in quotes.")],
    model_options: SegmenterOptions,
    thresholds: Thresholds,
    click: Annotated[
        list[str] | None, typer.Option(help="A point in pixels: x,y on the target, or x,y,0 outside it. Repeatable.")
    ] = None,
    box: Annotated[str | None, typer.Option(help="A box around the target, in pixels: x0,y0,x1,y1.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out"),
    as_json: JsonLines = False,
    trust: Trust = False,
    overwrite: Overwrite = False,
) -> None:
    """Segment what a query means, then correct the mask by clicks, in their order, and by a box around the target."""
    from seglens.cli.arguments import one_text
    from seglens.exports import AnnotatedImage, Command, Export, Title
    from seglens.inference.image_sources import one_image

    query, threshold_arguments = one_text(words, "query"), thresholds.arguments()
    picture, clicks, corners = one_image(image), [_click(text) for text in click or ()], _box(box)
    settings = {**answer_settings(model_options, thresholds), "trust": trust, "clicks": list(click or ()), "box": box}
    title = Title(f"{picture.name}_refined", (query,))
    key, sources = f"{picture.key} refined", [] if picture.file is None else [picture.file]
    with Export(out, command=Command([query], settings), sources=sources, overwrite=overwrite) as export:
        export.plan([(key, title)])
        pixels = picture.pixels  # before the model is loaded: a wrong name is reported at once
        opened = load_segmenter(model_options, segmentation_only=True, **threshold_arguments).open(pixels)
        refined = opened.refine(opened.segment(query, trust=trust), clicks, corners)
        (files,) = export.add(AnnotatedImage(title.name, [refined], None, key, picture.stamp))
    _report(image, refined, files, as_json)


def _report(image: str, refined: Prediction, files: Mapping[str, Path], as_json: bool) -> None:
    from seglens.core.schema import AnswerLine

    paths = {kind: printable(str(path)) for kind, path in files.items()}
    if as_json:
        print_json_line(AnswerLine(**dict(refined.answer()), image=printable(image), files=paths))
        return
    verdict = (
        f"{int(refined.mask.sum())} pixels, score {refined.score:.2f}" if refined.found else not_found_text(refined)
    )
    print(f"{refined.query}: {verdict} ({refined.timing['refine']:.0f} ms); {', '.join(paths.values())}")


def _click(text: str) -> Click:
    """Raises ValueError when the text is not "x,y" or "x,y,label"."""
    from seglens.core.schema import Click

    x, y, label, *_ = (*_numbers(text, "--click", "x,y or x,y,label", (2, 3)), 1.0)
    if label not in (0, 1):
        raise ValueError(f"--click got {text!r}; its label must be 1 (belongs to the target) or 0 (does not)")
    return Click(x=x, y=y, label=1 if label else 0)


def _box(text: str | None) -> Box | None:
    """Raises ValueError when the text is not "x0,y0,x1,y1"."""
    from seglens.core.schema import Box

    if text is None:
        return None
    x0, y0, x1, y1 = _numbers(text, "--box", "x0,y0,x1,y1", (4,))
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


def _numbers(text: str, option: str, form: str, counts: tuple[int, ...]) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        raise ValueError(f"{option} got {text!r}; it needs {form}: numbers in pixels, separated by commas")
    return values
