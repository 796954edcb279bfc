"""`seglens refine`: a mask by words, then corrected by clicks and a box."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seglens.cli.shared import (
    JsonLines,
    Overwrite,
    System,
    Thresholds,
    Trust,
    emit_line,
    load_segmenter,
    printable,
    settled,
    why_not,
)

if TYPE_CHECKING:
    from seglens.core.schema import Box, Click
    from seglens.inference.prediction import Prediction


def refine(
    image: Annotated[str, typer.Argument(help="An image file, or - for one on standard input.")],
    words: Annotated[list[str], typer.Argument(metavar="QUERY", help="What to segment, in quotes.")],
    system: System,
    thresholds: Thresholds,
    click: Annotated[
        list[str] | None, typer.Option(help="x,y in pixels of something that belongs to it; x,y,0 of what does not.")
    ] = None,
    box: Annotated[str | None, typer.Option(help="x0,y0,x1,y1 in pixels, around it.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for mask and overlay.")] = Path("out"),
    as_json: JsonLines = False,
    trust: Trust = False,
    overwrite: Overwrite = False,
) -> None:
    """Segment what the words mean, then correct the mask by clicks, in their order, and by a box around the target."""
    from seglens.cli.arguments import one_text
    from seglens.exports import AnnotatedImage, Command, Export, Title
    from seglens.inference.image_sources import one_image

    query, sure = one_text(words, "query"), thresholds.options()
    picture, clicks, drawn = one_image(image), [_click(text) for text in click or ()], _box(box)
    settings = {**settled(system, thresholds), "trust": trust, "clicks": list(click or ()), "box": box}
    title = Title(f"{picture.name}_refined", (query,))
    key, sources = f"{picture.key} refined", [] if picture.file is None else [picture.file]
    with Export(out, command=Command([query], settings), sources=sources, overwrite=overwrite) as export:
        export.plan([(key, title)])
        pixels = picture.pixels  # before the model is loaded: a wrong name is told at once
        opened = load_segmenter(system, segmentation_only=True, **sure).open(pixels)
        refined = opened.refine(opened.segment(query, trust=trust), clicks, drawn)
        (files,) = export.add(AnnotatedImage(title.name, [refined], None, key, picture.stamp))
    _tell(image, refined, files, as_json)


def _tell(image: str, refined: Prediction, files: Mapping[str, Path], as_json: bool) -> None:
    from seglens.core.schema import AnswerLine

    paths = {kind: printable(str(path)) for kind, path in files.items()}
    if as_json:
        emit_line(AnswerLine(**dict(refined.answer()), image=printable(image), files=paths))
        return
    verdict = f"{int(refined.mask.sum())} pixels, score {refined.score:.2f}" if refined.found else why_not(refined)
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
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) not in counts:
        raise ValueError(f"{option} got {text!r}; it needs {form}: numbers in pixels with commas between")
    return found
