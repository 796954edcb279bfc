"""The formats of files, by the names that users type."""

from __future__ import annotations

from collections.abc import Callable

from seglens.exports.base import Format, PerPage
from seglens.exports.coco import CocoFile
from seglens.exports.geojson import geojson, geojson_paths
from seglens.exports.labelstudio import LabelStudioFile
from seglens.exports.pictures import mask_paths, masks, overlay_paths, overlays
from seglens.exports.png import indexed, indexed_paths
from seglens.exports.yolo import YoloFolder

FORMATS: dict[str, Callable[[], Format]] = {
    "mask": lambda: PerPage(mask_paths, masks),
    "overlay": lambda: PerPage(overlay_paths, overlays),
    "png": lambda: PerPage(indexed_paths, indexed),
    "coco": lambda: CocoFile("coco.json", polygons=False),
    "coco-polygons": lambda: CocoFile("coco_polygons.json", polygons=True),
    "yolo": YoloFolder,
    "geojson": lambda: PerPage(geojson_paths, geojson),
    "labelstudio": LabelStudioFile,
}
DEFAULT = ("mask", "overlay")
