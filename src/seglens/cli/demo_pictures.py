"""A demonstration: a scene, queries of different kinds, a question to the same frozen model, pictures on disk."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

from PIL import Image, ImageDraw, ImageFont

from seglens.core.file_names import slug
from seglens.core.files import write_new
from seglens.core.png_files import marked_png, png_bytes
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter
from seglens.world.language import speaker
from seglens.world.world import Scene, World

KINDS = ("name", "part", "reasoning", "absent")
SEED = 3
SCALE, CAPTION, LINE = 2, 64, 46  # pixels, pixels, letters


def show(segmenter: Segmenter, out: Path, overwrite: bool = False) -> None:
    """Write the scene, a mask and an overlay per query, and one sheet of them all into `out`; print where they are.

    Raises FileExistsError where other files are, unless `overwrite` allows to replace them."""
    world = World("test", SEED)
    index, scene = next((i, s) for i in range(100) if _offers(s := world.scene(i)))
    one = speaker(world, index, scene)
    queries = [query.text for query in map(one.query, KINDS) if query is not None]
    question = one.question("colour")
    if question is None or len(queries) < len(KINDS):
        raise RuntimeError(f"scene {index} of seed {SEED} no longer offers {', '.join(KINDS)} and a colour question")
    write_new({out / "scene.png": png_bytes(Image.fromarray(scene.image))}, overwrite)
    predictions = segmenter.open(scene.image).segment(queries)
    for kind, prediction in zip(KINDS, predictions, strict=True):
        prediction.save(out, f"{kind}_{slug(prediction.query)}", overwrite)
        print(f"{kind:>10}: {prediction.query:<44} {_verdict(prediction)}")
    print(f"{'chat':>10}: {question.text:<44} {segmenter.ask(scene.image, question.text)}")
    write_new({out / "demo.png": marked_png(_sheet(Image.fromarray(scene.image), predictions))}, overwrite)
    print(f"\nThe pictures are in {out.resolve()}; look at demo.png first.")


def _offers(scene: Scene) -> bool:
    """A scene worth showing: a handful of different things, all with parts large enough to ask for."""
    names = [thing.name for thing in scene.things]
    largest_parts = [max(thing.parts.values(), default=0) for thing in scene.things]
    return len(names) in (4, 5) and len(set(names)) >= 3 and min(largest_parts) > 400


def _verdict(p: Prediction) -> str:
    if not p.found:
        return "not found" if p.presence is None else f"not found (presence {p.presence:.2f})"
    return f"found ({int(p.mask.sum())} pixels, score {p.score:.2f})"


def _sheet(scene: Image.Image, predictions: list[Prediction]) -> Image.Image:
    """The scene and the overlays side by side, each over its query."""
    pictures = [("the scene", scene)]
    pictures += [(p.query if p.found else f"{p.query} (not found)", p.overlay()) for p in predictions]
    width, height = scene.width * SCALE, scene.height * SCALE
    sheet = Image.new("RGB", (width * len(pictures), height + CAPTION), (250, 250, 248))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for column, (text, picture) in enumerate(pictures):
        sheet.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (column * width, 0))
        draw.text((column * width + 10, height + 8), fill(text, LINE), fill=(30, 30, 34), font=font)
    return sheet
