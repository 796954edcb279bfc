"""Predictions as supervision's own objects."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import supervision

from exports.predictions import prediction_of, two_cups
from seglens.exports import to_supervision


def test_the_fields() -> None:
    cat = np.zeros((40, 60), bool)
    cat[0, 0] = True
    detections = to_supervision([two_cups(), prediction_of("dog", np.zeros_like(cat)), prediction_of("cat", cat)])
    np.testing.assert_array_equal(detections.mask, [*(one.mask for one in two_cups().instances), cat])
    assert detections.xyxy.tolist() == [[4, 5, 30, 25], [50, 30, 60, 40], [0, 0, 1, 1]]
    assert detections.confidence is not None
    assert detections.confidence.tolist() == pytest.approx([0.9, 0.8, 0.75])
    assert detections.class_id is not None
    assert detections.class_id.tolist() == [0, 0, 2]
    assert detections.data["class_name"].tolist() == ["each of the cups"] * 2 + ["cat"]
    assert detections.area.tolist() == [one.mask.sum() for one in two_cups().instances] + [1]


def test_its_tools_take_them() -> None:
    image = two_cups().image
    detections = to_supervision(two_cups())
    drawn = supervision.MaskAnnotator(opacity=1).annotate(image.copy(), detections)
    np.testing.assert_array_equal((drawn != image).any(-1), two_cups().mask)
    labelled = supervision.LabelAnnotator().annotate(image.copy(), detections)
    assert (labelled != image).any()
    assert detections.with_nms().data["class_name"].tolist() == ["each of the cups"] * 2
    assert len(detections[detections.class_id == 0]) == 2
    assert len(supervision.Detections.merge([detections, to_supervision(two_cups())])) == 4


def test_nothing_found() -> None:
    detections = to_supervision(prediction_of("cat", np.zeros((3, 4), bool)))
    assert (len(detections), detections.is_empty(), detections.mask.shape) == (0, True, (0, 3, 4))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'seglens\[export\]'"):
        to_supervision(two_cups())
