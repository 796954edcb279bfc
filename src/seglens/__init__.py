"""SegLens: pixel-level sight for any multimodal LLM, without changing one of its weights.

    from seglens import Segmenter

    segmenter = Segmenter.from_pretrained()
    prediction = segmenter.segment("scene.png", "the thing that keeps you dry in the rain")

Importing the package is light: torch and transformers are imported with the first name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seglens.inference.prediction import Prediction as Prediction
    from seglens.inference.segmenter import OpenedImage as OpenedImage
    from seglens.inference.segmenter import Segmenter as Segmenter

__version__ = "0.1.0"

_HOMES = {
    "OpenedImage": "inference.segmenter",
    "Prediction": "inference.prediction",
    "Segmenter": "inference.segmenter",
}
__all__ = ["OpenedImage", "Prediction", "Segmenter", "__version__"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seglens' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(import_module(f"seglens.{_HOMES[name]}"), name)
