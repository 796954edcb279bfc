"""COCO instances (Lin et al., arXiv 1405.0312): one json of images, annotations and categories for a whole run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seglens.data.masks import encode_rle
from seglens.exports.base import Files, Format, Spool
from seglens.exports.bridge import bridged
from seglens.exports.outline import outline
from seglens.exports.page import Page, Thing, missing_picture, things_of

INFO = {"description": "Masks by SegLens. file_name counts from the folder that all images have in common."}


def to_coco(pages: Iterable[Page], polygons: bool = False) -> dict[str, Any]:
    """The dataset of the pages: a category per query, an annotation per thing.

    Masks are compressed run lengths, which are exact everywhere. With `polygons` they are lists of polygons, one per
    piece. COCO's polygons have no holes, so that one with holes walks into each over a line of no width and back:
    pycocotools makes the same pixels of it."""
    book = _Book(polygons)
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    for page in pages:
        images.append(book.image(page))
        annotations += book.annotations(page)
    return {"info": INFO, "images": images, "annotations": annotations, "categories": book.categories()}


class CocoFile(Format):
    """`coco.json` for the whole run, and `images/` with what is in no file."""

    def __init__(self, folder: Path, name: str, polygons: bool):
        self.name = name
        self.book = _Book(polygons)
        self.images, self.annotations = Spool(folder), Spool(folder)

    def page(self, page: Page) -> Files:
        return Files(missing_picture(page), [self.name] * len(page.predictions))

    def note(self, page: Page) -> None:
        self.images.add(self.book.image(page))
        for record in self.book.annotations(page):
            self.annotations.add(record)

    def finish(self) -> dict[str, Iterable[bytes]]:
        return {self.name: self._pieces()}

    def _pieces(self) -> Iterable[bytes]:
        yield b'{"info": ' + json.dumps(INFO).encode() + b',\n"images": '
        yield from self.images.array()
        yield b',\n"annotations": '
        yield from self.annotations.array()
        yield b',\n"categories": ' + json.dumps(self.book.categories()).encode() + b"}\n"


class _Book:
    """Records and their numbers: images and annotations by their order, categories by when a query was first asked."""

    def __init__(self, polygons: bool):
        self.polygons = polygons
        self.pages, self.things, self.queries = 0, 0, dict[str, int]()

    def image(self, page: Page) -> dict[str, Any]:
        self.pages += 1
        for one in page.predictions:
            self.queries.setdefault(one.query, len(self.queries) + 1)
        height, width = page.image.shape[:2]
        return {"id": self.pages, "file_name": page.file or f"{page.name}.png", "width": width, "height": height}

    def annotations(self, page: Page) -> list[dict[str, Any]]:
        """Those of the image that was numbered last."""
        return [self._annotation(thing) for thing in things_of(page.predictions)]

    def _annotation(self, thing: Thing) -> dict[str, Any]:
        self.things += 1
        mask = thing.instance.mask
        x0, y0, x1, y1 = thing.instance.box
        pieces = [bridged(region).ravel().tolist() for region in outline(mask)] if self.polygons else encode_rle(mask)
        return {
            "id": self.things, "image_id": self.pages, "category_id": self.queries[thing.query],
            "segmentation": pieces, "area": int(mask.sum()), "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
            "score": round(thing.instance.score, 4),
        }  # fmt: skip

    def categories(self) -> list[dict[str, Any]]:
        return [{"id": number, "name": query, "supercategory": ""} for query, number in self.queries.items()]
