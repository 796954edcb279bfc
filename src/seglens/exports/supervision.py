"""supervision.Detections: for its annotators, filters, trackers and datasets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from seglens.exports.page import things_of
from seglens.inference.prediction import Prediction

if TYPE_CHECKING:
    from supervision import Detections


def to_supervision(predictions: Prediction | Iterable[Prediction]) -> Detections:
    """The things of predictions for one image, with `xyxy`, `mask`, `confidence`, `class_id` (the number of the query)
    and `data["class_name"]` (its words).

    Raises ImportError without the extra `export`."""
    try:
        from supervision import Detections
    except ImportError as error:
        raise ImportError("supervision is not installed; pip install 'seglens[export]'") from error
    each = [predictions] if isinstance(predictions, Prediction) else list(predictions)
    numbers = {query: number for number, query in enumerate(dict.fromkeys(one.query for one in each))}
    things = list(things_of(each))
    masks = [one.instance.mask for one in things]
    return Detections(
        xyxy=np.array([one.instance.box for one in things], np.float32).reshape(-1, 4),
        mask=np.stack(masks) if masks else np.zeros((0, *each[0].mask.shape), bool),
        confidence=np.array([one.instance.score for one in things], np.float32),
        class_id=np.array([numbers[one.query] for one in things], int),
        data={"class_name": np.array([one.query for one in things], dtype=str)},
    )
