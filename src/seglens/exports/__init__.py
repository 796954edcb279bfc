"""Results as other tools hold them: files by the names in `FORMATS`, objects by the functions `to_...`."""

from seglens.exports.coco import to_coco
from seglens.exports.fiftyone import to_fiftyone
from seglens.exports.formats import DEFAULT, FORMATS
from seglens.exports.geojson import to_geojson
from seglens.exports.labelstudio import to_label_studio
from seglens.exports.ledger import Command
from seglens.exports.page import AnnotatedImage, Title
from seglens.exports.png import to_png
from seglens.exports.supervision import to_supervision
from seglens.exports.writer import Export, write_results
from seglens.exports.yolo import to_yolo

__all__ = [
    "DEFAULT",
    "FORMATS",
    "AnnotatedImage",
    "Command",
    "Export",
    "Title",
    "to_coco",
    "to_fiftyone",
    "to_geojson",
    "to_label_studio",
    "to_png",
    "to_supervision",
    "to_yolo",
    "write_results",
]
