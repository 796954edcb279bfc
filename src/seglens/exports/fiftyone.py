"""fiftyone.Detections: instances with their masks, for a field of a FiftyOne sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from seglens.exports.page import Thing, things_of
from seglens.prediction import Prediction

if TYPE_CHECKING:
    from fiftyone import Detections


def to_fiftyone(predictions: Prediction | Iterable[Prediction]) -> Detections:
    """The things of predictions for one image: `label` is the query, `bounding_box` is [x, y, width, height] in shares
    of the image's sides, `mask` is cut to the box.

    Raises ImportError without the extra `fiftyone`."""
    try:
        import fiftyone
    except ImportError as error:
        raise ImportError("FiftyOne is not installed; pip install 'seglens[fiftyone]'") from error
    return fiftyone.Detections(detections=[fiftyone.Detection(**_said(one)) for one in things_of(predictions)])


def _said(thing: Thing) -> dict[str, Any]:
    mask = thing.instance.mask
    (x0, y0, x1, y1), (height, width) = thing.instance.box, mask.shape
    return {
        "label": thing.query,
        "confidence": thing.instance.score,
        "bounding_box": [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height],
        "mask": mask[y0:y1, x0:x1],
    }
