"""The indexed PNG, as Pillow and our own reader of label maps see it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from exports.predictions import prediction_of, two_cups
from seglens.data.images import load_labels
from seglens.exports import AnnotatedImage, to_png, write_results

VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]  # of its development kit


def test_values_are_things_and_colours_are_vocs(tmp_path: Path) -> None:
    cat = np.zeros((40, 60), bool)
    cat[26:39, 5:45] = True
    page = AnnotatedImage("A", [two_cups(), prediction_of("dog", np.zeros_like(cat)), prediction_of("cat", cat)])
    write_results([page], tmp_path, ["png"])
    (path,) = tmp_path.iterdir()
    values = load_labels(path)
    ring, square = (one.mask for one in two_cups().instances)
    for value, mask in enumerate((~(ring | square | cat), ring, square, cat)):
        np.testing.assert_array_equal(values == value, mask)
    with Image.open(path) as image:
        assert (path.name, image.mode) == ("a_indexed.png", "P")
        np.testing.assert_array_equal(np.reshape(image.getpalette(), (-1, 3))[:6], VOC)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[0, 0], VOC[0])
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[39, 59], VOC[2])
        things = json.loads(image.info["things"])
    assert [(one["value"], one["query"], one["score"]) for one in things] == [
        (1, "each of the cups", 0.9),
        (2, "each of the cups", 0.8),
        (3, "cat", 0.75),
    ]
    assert all(one["area"] == one["seen"] for one in things)


@settings(max_examples=40)
@given(st.integers(1, 4).flatmap(lambda n: arrays(bool, (n, 6, 7))))
def test_where_things_overlap_the_smaller_is_visible(masks: np.ndarray) -> None:
    image = to_png([prediction_of(str(number), mask) for number, mask in enumerate(masks)])
    visible = [mask for mask in masks if mask.any()]
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    with Image.open(buffer) as stored:
        values = np.asarray(stored)
    for y, x in np.ndindex(6, 7):
        here = [k for k, mask in enumerate(visible, 1) if mask[y, x]]
        areas = {k: int(visible[k - 1].sum()) for k in here}
        assert values[y, x] in ([k for k in here if areas[k] == min(areas.values())] or [0])
    for one, mask in zip(json.loads(image.info["things"]), visible, strict=True):
        assert (one["area"], one["seen"]) == (mask.sum(), (values == one["value"]).sum())


def test_as_many_things_as_a_palette_holds() -> None:
    single = np.eye(256, dtype=bool).reshape(256, 16, 16)
    full = to_png([prediction_of(str(number), mask) for number, mask in enumerate(single[:255])])
    np.testing.assert_array_equal(np.asarray(full).ravel()[:255], np.arange(1, 256))
    with pytest.raises(ValueError, match="a palette has 255 values and the image more things; export it as coco"):
        to_png([prediction_of(str(number), mask) for number, mask in enumerate(single)])
