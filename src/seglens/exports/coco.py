"""COCO instances (Lin et al., arXiv 1405.0312): one json of images, annotations and categories for a whole run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from seglens.exports.base import Files, Format, array, missing_picture
from seglens.exports.bridge import bridged
from seglens.exports.outline import regions_of
from seglens.exports.page import AnnotatedImage, ExportedInstance, PageSummary, Title, missing_place

MOST = 1_000_000  # things in an image: ids of one image begin so far from those of the one before
INFO = {"description": "Masks by SegLens. file_name counts from the folder that all images have in common."}


def to_coco(pages: Iterable[AnnotatedImage], polygons: bool = False) -> dict[str, Any]:
    """The dataset of the pages: a category per query, an annotation per thing.

    Masks are compressed run lengths, which are exact everywhere. With `polygons` they are lists of polygons, one per
    piece. COCO's polygons have no holes, so a polygon with holes enters each over a line of no width and leaves it
    again: pycocotools makes the same pixels of it."""
    summaries = [page.summary() for page in pages]
    numbers = _numbers(summaries)
    annotations = list(_annotations(summaries, numbers, polygons))
    return {"info": INFO, "images": list(_images(summaries)), "annotations": annotations, "categories": _named(numbers)}


def coco_part(pages: Iterable[tuple[int, PageSummary]], queries: Sequence[str]) -> dict[str, Any]:
    """Part of the dataset of a run, of pages with their numbers from 0 on: a category for each of all the queries, and
    ids that are those of an image or a thing in the whole run, so that parts are joined by joining their lists."""
    numbers, images, annotations = {query: n for n, query in enumerate(queries, 1)}, [], []
    for number, page in pages:
        images += [{**one, "id": number + 1} for one in _images([page])]
        things = _annotations([page], numbers, polygons=False)
        annotations += [{**one, "id": number * MOST + one["id"], "image_id": number + 1} for one in things]
    return {"info": INFO, "images": images, "annotations": annotations, "categories": _named(numbers)}


class CocoFile(Format):
    """`coco.json` for the whole run, and `images/` for pictures that are in no file."""

    def __init__(self, name: str, polygons: bool):
        self.whole, self.polygons = (name,), polygons

    def paths(self, title: Title) -> Mapping[str, str | None]:
        return missing_place(title)

    def page(self, page: AnnotatedImage) -> Files:
        return Files(missing_picture(page), [*self.whole] * len(page.predictions))

    def finish(self, summaries: Iterable[PageSummary]) -> dict[str, Iterable[bytes]]:
        return {self.whole[0]: self._pieces(summaries)}

    def _pieces(self, summaries: Iterable[PageSummary]) -> Iterator[bytes]:
        numbers = _numbers(summaries)
        yield b'{"info": ' + json.dumps(INFO).encode() + b',\n"images": '
        yield from array(_images(summaries))
        yield b',\n"annotations": '
        yield from array(_annotations(summaries, numbers, self.polygons))
        yield b',\n"categories": ' + json.dumps(_named(numbers)).encode() + b"}\n"


def _numbers(summaries: Iterable[PageSummary]) -> dict[str, int]:
    """Categories in the order in which queries first occur."""
    queries = dict.fromkeys(answer.query for summary in summaries for answer in summary.answers)
    return {query: number for number, query in enumerate(queries, 1)}


def _named(numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"id": number, "name": query, "supercategory": ""} for query, number in numbers.items()]


def _images(summaries: Iterable[PageSummary]) -> Iterator[dict[str, Any]]:
    for number, summary in enumerate(summaries, 1):
        yield {
            "id": number,
            "file_name": summary.file or f"{summary.name}.png",
            "width": summary.width,
            "height": summary.height,
        }


def _annotations(
    summaries: Iterable[PageSummary], numbers: Mapping[str, int], polygons: bool
) -> Iterator[dict[str, Any]]:
    things = ((image, item) for image, summary in enumerate(summaries, 1) for item in summary.items)
    for number, (image, item) in enumerate(things, 1):
        x0, y0, x1, y1 = item.instance.box
        yield {
            "id": number,
            "image_id": image,
            "category_id": numbers[item.query],
            "segmentation": _polygons(item) if polygons else item.instance.segmentation.model_dump(mode="json"),
            "area": item.instance.area,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": 0,
            "score": item.instance.score,
        }


def _polygons(item: ExportedInstance) -> list[list[int]]:
    return [bridged(region).ravel().tolist() for region in regions_of(item.mask())]
