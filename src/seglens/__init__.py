"""SegLens: pixel-level sight for any multimodal LLM, without changing any of its weights.

    from seglens import Segmenter

    segmenter = Segmenter.from_pretrained()
    prediction = segmenter.segment("scene.png", "the thing that keeps you dry in the rain")

Importing the package is light: torch and transformers are imported with the first name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seglens.agent import Agent as Agent
    from seglens.core.schema import Box as Box
    from seglens.core.schema import Click as Click
    from seglens.data import load_data as load_data
    from seglens.data.masks import decode_rle as decode_rle
    from seglens.data.masks import save_png as save_png
    from seglens.data.world import WorldData as WorldData
    from seglens.exports import AnnotatedImage as AnnotatedImage
    from seglens.exports import to_coco as to_coco
    from seglens.exports import to_fiftyone as to_fiftyone
    from seglens.exports import to_geojson as to_geojson
    from seglens.exports import to_label_studio as to_label_studio
    from seglens.exports import to_png as to_png
    from seglens.exports import to_supervision as to_supervision
    from seglens.exports import to_yolo as to_yolo
    from seglens.exports import write_results as write_results
    from seglens.inference.compressed_predictions import CompressedPredictions as CompressedPredictions
    from seglens.inference.opened_image import OpenedImage as OpenedImage
    from seglens.inference.prediction import Prediction as Prediction
    from seglens.inference.segmenter import Segmenter as Segmenter

__version__ = "0.1.0"

# Where each public name lives. It is imported when it is first asked for.
_HOMES = {
    "Agent": "agent",
    "AnnotatedImage": "exports",
    "Box": "core.schema",
    "Click": "core.schema",
    "CompressedPredictions": "inference.compressed_predictions",
    "OpenedImage": "inference.opened_image",
    "Prediction": "inference.prediction",
    "Segmenter": "inference.segmenter",
    "WorldData": "data.world",
    "decode_rle": "data.masks",
    "load_data": "data",
    "save_png": "data.masks",
    "to_coco": "exports",
    "to_fiftyone": "exports",
    "to_geojson": "exports",
    "to_label_studio": "exports",
    "to_png": "exports",
    "to_supervision": "exports",
    "to_yolo": "exports",
    "write_results": "exports",
}
__all__ = [
    "Agent",
    "AnnotatedImage",
    "Box",
    "Click",
    "CompressedPredictions",
    "OpenedImage",
    "Prediction",
    "Segmenter",
    "WorldData",
    "__version__",
    "decode_rle",
    "load_data",
    "save_png",
    "to_coco",
    "to_fiftyone",
    "to_geojson",
    "to_label_studio",
    "to_png",
    "to_supervision",
    "to_yolo",
    "write_results",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seglens' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(import_module(f"seglens.{_HOMES[name]}"), name)
