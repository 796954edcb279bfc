"""`seglens segment` and `seglens ask`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from seglens.cli.shared import AsJson, Device, Model, emit, load_segmenter


def _names(image: Path, queries: Sequence[str]) -> list[str]:
    """File names, one per query; all numbered when two queries would share one."""
    from seglens.prediction import slug

    names = [f"{slug(image.stem)}_{slug(query)}" for query in queries]
    return names if len(set(names)) == len(names) else [f"{name}_{number}" for number, name in enumerate(names)]


def segment(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    query: Annotated[list[str], typer.Argument(help="What to segment, in words; more queries cost little more.")],
    model: Model = "embedded",
    out: Annotated[Path, typer.Option(help="Folder for masks and overlays.")] = Path("out"),
    as_json: AsJson = False,
    device: Device = "cpu",
) -> None:
    """Segment what the words mean: writes a lossless mask and an overlay per query."""
    from seglens.data.images import load_image

    pixels = load_image(image)  # before the model is loaded: a wrong name is told at once
    predictions = load_segmenter(model, device, segmentation_only=True).segment(pixels, query)
    answers = []
    for name, p in zip(_names(image, query), predictions, strict=True):
        files = p.save(out, name)
        answers.append({"image": str(image), **p.to_dict(), "files": {k: str(v) for k, v in files.items()}})
        if not as_json:
            verdict = f"found, score {p.score:.2f}" if p.found else "not found"
            presence = "" if p.presence is None else f" (presence {p.presence:.2f})"
            print(f"{p.query}: {verdict}{presence}; {files['mask']}, {files['overlay']}")
    if as_json:
        emit(answers[0] if len(answers) == 1 else answers)


def ask(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    question: Annotated[str, typer.Argument(help="A question about it.")],
    model: Model = "embedded",
    as_json: AsJson = False,
    device: Device = "cpu",
) -> None:
    """Ask the untouched multimodal LLM."""
    from seglens.data.images import load_image

    pixels = load_image(image)
    answer = load_segmenter(model, device).ask(pixels, question)
    if as_json:
        emit({"image": str(image), "question": question, "answer": answer})
    else:
        print(answer)
