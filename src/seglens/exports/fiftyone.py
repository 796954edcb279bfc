"""fiftyone.Detections: instances with their masks, for a field of a FiftyOne sample."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from seglens.exports.page import ExportedObject, things_of
from seglens.inference.prediction import Prediction

if TYPE_CHECKING:
    from fiftyone import Detections


def to_fiftyone(predictions: Prediction | Iterable[Prediction]) -> Detections:
    """The things of predictions for one image: `label` is the query, `bounding_box` is [x, y, width, height] in shares
    of the image's sides, `mask` is cut to the box. FiftyOne places each mask on exactly the pixels that it came from.

    Raises ImportError without the extra `fiftyone`."""
    try:
        import fiftyone
    except ImportError as error:
        raise ImportError("FiftyOne is not installed; pip install 'seglens[fiftyone]'") from error
    return fiftyone.Detections(detections=[fiftyone.Detection(**_fields(one)) for one in things_of(predictions)])


def _fields(thing: ExportedObject) -> dict[str, Any]:
    mask = thing.instance.mask
    (x0, y0, x1, y1), (height, width) = thing.instance.box, mask.shape
    (x, w), (y, h) = _shares(x0, x1, width), _shares(y0, y1, height)
    return {
        "label": thing.query,
        "confidence": thing.instance.score,
        "bounding_box": [x, y, w, h],
        "mask": mask[y0:y1, x0:x1],
    }


def _shares(start: int, end: int, side: int) -> tuple[float, float]:
    """Start and length of a box in shares of a side.

    FiftyOne rounds both ends, `start * side` and `(start + length) * side`, down to whole pixels and scales the mask to
    the pixels between. A quotient that was rounded down would lose a pixel there, so it is increased by the one or two
    last bits that it needs."""
    first = _share(start, side)
    last = _share(end, side)
    length = last - first
    while first + length < last:
        length += math.ulp(last)
    return first, length


def _share(pixel: int, side: int) -> float:
    """The smallest number at `pixel / side` or above that times `side` is not below `pixel`."""
    share = pixel / side
    while share * side < pixel:
        share = math.nextafter(share, math.inf)
    return share
