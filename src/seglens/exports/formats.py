"""The formats of files, by the names that users type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from seglens.exports.base import Format, PerPage
from seglens.exports.coco import CocoFile
from seglens.exports.geojson import geojson
from seglens.exports.labelstudio import LabelStudioFile
from seglens.exports.pictures import masks, overlays
from seglens.exports.png import indexed
from seglens.exports.yolo import YoloFolder

# Each is made for the folder of its export.
FORMATS: dict[str, Callable[[Path], Format]] = {
    "mask": lambda folder: PerPage(masks),
    "overlay": lambda folder: PerPage(overlays),
    "png": lambda folder: PerPage(indexed),
    "coco": lambda folder: CocoFile(folder, "coco.json", polygons=False),
    "coco-polygons": lambda folder: CocoFile(folder, "coco_polygons.json", polygons=True),
    "yolo": lambda folder: YoloFolder(),
    "geojson": lambda folder: PerPage(geojson),
    "labelstudio": LabelStudioFile,
}
DEFAULT = ("mask", "overlay")
