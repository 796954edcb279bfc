"""Label Studio's brush run lengths, decoded by its own converter."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from label_studio_converter import brush

from exports.predictions import MASKS, blobs, prediction_of, two_cups
from seglens.exports import AnnotatedImage, to_label_studio, write_results
from seglens.exports.labelstudio import brush_rle


def decoded(rle: list[int], height: int, width: int) -> np.ndarray:
    values = brush.decode_rle(rle).reshape(height, width, 4)
    assert (values == values[..., :1]).all()
    assert set(np.unique(values)) <= {0, 255}
    return values[..., 3] > 0


@settings(max_examples=30, deadline=None)
@given(MASKS)
def test_any_mask(mask: np.ndarray) -> None:
    rle = brush_rle(mask)
    np.testing.assert_array_equal(decoded(rle, *mask.shape), mask)
    theirs = brush.mask2rle(mask.astype(np.uint8) * 255)
    assert theirs[: len(rle)] == rle  # their own encoder may add a byte of padding
    assert theirs[len(rle) :] in ([], [0])


@pytest.mark.parametrize("length", [2, 4, 16, 64, 65, 16_384, 16_385, 40_000])
def test_every_kind_of_length(length: int) -> None:
    """Four values a pixel: lengths of 3, 4, 8 and 16 bits, and runs that are longer than any."""
    mask = np.zeros((1, length + 1), bool)
    mask[0, :length] = True
    np.testing.assert_array_equal(decoded(brush_rle(mask), *mask.shape), mask)


def test_the_task(tmp_path: Path) -> None:
    cat = prediction_of('a <cat> & "dog"', blobs(1, (40, 60)))
    write_results(
        [AnnotatedImage("A", [two_cups(), cat], "deep/ä b.jpg"), AnnotatedImage("b", [cat], "b.png")],
        tmp_path,
        ["labelstudio"],
    )
    tasks = json.loads((tmp_path / "labelstudio.json").read_text())
    assert [task["data"] for task in tasks] == [
        {"image": "/data/local-files/?d=deep/%C3%A4%20b.jpg"},
        {"image": "/data/local-files/?d=b.png"},
    ]
    (prediction,) = tasks[0]["predictions"]
    masks = [one.mask for one in (*two_cups().instances, *cat.things)]
    layers = brush.decode_from_annotation("tag", [_for_the_converter(one) for one in prediction["result"]])
    for layer, mask in zip(layers.values(), masks, strict=True):
        np.testing.assert_array_equal(layer > 0, mask)
    assert [name.split("-")[1] for name in layers] == ["each of the cups"] * 2 + [cat.query]
    for one in prediction["result"]:
        assert (one["type"], one["original_width"], one["original_height"]) == ("brushlabels", 60, 40)
        assert one["value"]["format"] == "rle"
    assert [one["score"] for one in prediction["result"]] == [0.9, 0.8, 0.75]
    assert len({one["id"] for one in prediction["result"]}) == 3
    setup = ElementTree.parse(tmp_path / "labelstudio.xml").getroot()
    assert [label.get("value") for label in setup.iter("Label")] == ["each of the cups", cat.query]
    names = {tag.tag: dict(tag.attrib) for tag in setup}
    assert names["BrushLabels"] == {
        "name": prediction["result"][0]["from_name"],
        "toName": prediction["result"][0]["to_name"],
    }
    assert names["Image"] == {"name": "image", "value": "$image"}
    assert to_label_studio(AnnotatedImage("b", [cat], "b.png")) == tasks[1]


def _for_the_converter(result: dict) -> dict:
    """As its caller flattens a result before it decodes it."""
    return {**{key: result[key] for key in ("type", "original_width", "original_height")}, **result["value"]}


def test_nothing_found_is_a_task_without_masks() -> None:
    nothing = to_label_studio(AnnotatedImage("a", [prediction_of("cat", np.zeros((3, 4), bool))]))
    assert nothing["predictions"][0]["result"] == []
    assert nothing["data"] == {"image": "/data/local-files/?d=images/a.png"}
