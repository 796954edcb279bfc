"""YOLO segmentation: a text file per image, a line per object, and data.yaml, as ultralytics documents them.

https://docs.ultralytics.com/datasets/segment/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import yaml

from seglens.exports.base import Files, Format, OutputFile
from seglens.exports.bridge import joined
from seglens.exports.outline import regions_of
from seglens.exports.page import AnnotatedImage, PageSummary, Title, picture, things_of
from seglens.inference.prediction import Prediction

YAML = "data.yaml"


def to_yolo(predictions: Prediction | Iterable[Prediction], classes: Mapping[str, int]) -> str:
    """The lines of a label file: `class x1 y1 x2 y2 ...` in shares of the image's sides; `classes` numbers the queries.

    A line is one object and one polygon, so holes and pieces are joined by lines of no width, as ultralytics' own
    converter from COCO does. Exact by the even-odd rule on the edges of pixels. Rounding to pixel centres and drawing
    the outline, as ultralytics and supervision do with OpenCV, adds up to one pixel on the right and at the bottom, and
    along the lines between pieces."""
    lines = []
    for thing in things_of(predictions):
        mask = thing.instance.mask
        shares = joined(regions_of(mask)) / np.array([mask.shape[1], mask.shape[0]])
        lines.append(" ".join([str(classes[thing.query]), *(f"{share:.7g}" for share in shares.ravel().tolist())]))
    return "".join(f"{line}\n" for line in lines)


class YoloFolder(Format):
    """`images/NAME.png`, `labels/NAME.txt` and `data.yaml`.

    The images are written too, as a label is found by the path of its image: as PNG, upright, with the same pixels that
    the masks were made on."""

    whole = (YAML,)

    def __init__(self) -> None:
        self.classes: dict[str, int] = {}

    def paths(self, title: Title) -> Mapping[str, str | None]:
        return dict.fromkeys((f"images/{title.name}.png", f"labels/{title.name}.txt"))

    def page(self, page: AnnotatedImage) -> Files:
        self.note(page.title.queries)
        image, label = self.paths(page.title)
        content = [
            OutputFile(image, picture(page.image)),
            OutputFile(label, to_yolo(page.predictions, self.classes).encode()),
        ]
        return Files(content, [label] * len(page.predictions))

    def note(self, queries: Iterable[str]) -> None:
        for query in queries:
            self.classes.setdefault(query, len(self.classes))

    def finish(self, summaries: Iterable[PageSummary]) -> dict[str, Iterable[bytes]]:
        # No `path`: folders then count from data.yaml itself, where "." would be the folder that training starts in.
        content = {"train": "images", "val": "images", "names": {number: name for name, number in self.classes.items()}}
        return {YAML: [yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()]}
