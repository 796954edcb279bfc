"""What the browser is given: layers at the size they are shown at, marks in the pixels of the image."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from PIL import Image

from seglens.core.schema import Box, Click, Corrections
from seglens.inference.instance import Instance
from seglens.inference.opened_image import OpenedImage
from seglens.inference.prediction import Prediction
from seglens.serving.web.downloads import downloads
from seglens.serving.web.findings import Findings, changed, put
from seglens.serving.web.layers import COLOURS, FILL, LINE, colour_of, heat_layer, mask_layer, picture, shown_size
from seglens.serving.web.view import View, html_of, view_of
from seglens.serving.web.visit_state import State


@pytest.fixture(scope="module")
def prediction(opened: OpenedImage) -> Prediction:
    return opened.segment("the largest thing")


def view_after(*predictions: Prediction) -> View:
    """What is shown after these answers, the last one chosen."""
    findings: Findings = ()
    for one in predictions:
        findings, new, _ = put(findings, one, 12)
    view = view_of(State(predictions[0].image, findings=findings, chosen=new.id), 1280)
    assert view is not None
    return view


@pytest.mark.parametrize(
    ("size", "smaller"),
    [((256, 256), (256, 256)), ((4000, 3000), (1280, 960)), ((1, 40_000), (1, 1280)), ((1280, 1), (1280, 1))],
)
def test_pictures_are_shrunk_and_never_enlarged(size: tuple[int, int], smaller: tuple[int, int]) -> None:
    assert shown_size(*size, 1280) == smaller
    assert picture(np.zeros((*size[::-1], 3), np.uint8), 1280).size == smaller


def test_a_mask_is_filled_and_outlined_and_the_rest_is_clear() -> None:
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:15, 5:15], masks[1, 20:30, 40:50] = True, True
    layer = np.array(mask_layer(list(masks), 1280))
    assert layer.shape == (40, 60, 4)
    assert layer[10, 10].tolist() == [*colour_of(0), FILL]
    assert layer[5, 5].tolist() == [*colour_of(0), LINE]
    assert layer[25, 45].tolist() == [*colour_of(1), FILL]
    np.testing.assert_array_equal(layer[..., 3] > 0, masks.any(0))
    assert mask_layer([], 1280) is None
    assert len(set(COLOURS)) == len(COLOURS)
    assert colour_of(len(COLOURS)) == colour_of(0)


def test_a_large_mask_is_shown_small_and_downloaded_whole(prediction: Prediction) -> None:
    side = 64
    assert mask_layer([prediction.mask], side).size == heat_layer(prediction, side).size == (side, side)
    (mask, _) = downloads([prediction])
    assert Image.open(io.BytesIO(decoded(mask.address))).size == prediction.mask.shape[::-1]


def test_the_heat_map_is_transparent_where_there_is_no_attention(prediction: Prediction) -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 0.3
    alpha = np.array(heat_layer(replace(prediction, heat_map=heat), 1280))[..., 3]
    assert alpha[0, 0] == alpha.max() > 0
    assert alpha[-1, -1] == 0
    assert heat_layer(replace(prediction, heat_map=None), 1280) is None


def test_marks_are_where_the_user_clicked(prediction: Prediction) -> None:
    corrections = Corrections(clicks=(Click(x=10, y=20), Click(x=30, y=40, label=0)), box=Box(x0=1, y0=2, x1=11, y1=22))
    view = view_after(replace(prediction, corrections=corrections))
    assert [mark.label for mark in view.clicks] == [1, 0]
    plus, minus = (mark.path for mark in view.clicks)
    assert plus.count("M") == 2, "a plus is two strokes"
    assert minus.count("M") == 1
    assert minus.split()[1].startswith("40")
    assert (view.box.x, view.box.y, view.box.width, view.box.height) == (1, 2, 10, 20)
    assert len(view.keypoints) == len(prediction.keypoints)


def test_the_legend_lists_every_query_with_its_result(prediction: Prediction) -> None:
    one = Instance(prediction.mask, 0.5)
    several = replace(prediction, query="each of them", instances=(one, one, one))
    empty = replace(
        prediction,
        query="an elephant",
        mask=np.zeros_like(prediction.mask),
        found=False,
        score=None,
        reason="No such thing.",
    )
    alone, three, nothing = view_after(prediction, several, empty).layers
    assert alone.query == "the largest thing"
    assert unescape(html_of("${1} `<b>` \\ {{2}}'")) == "${1} `<b>` \\ {{2}}'"
    assert not set(html_of("${1} `<b>` \\ {{2}}'")) & set("${}<>`\\'")
    assert alone.result.startswith("score ")
    assert three.result == "3 things"
    assert [entry.text[:2] for entry in three.things] == ["1:", "2:", "3:"]
    colours = {alone.colour, *(entry.colour for entry in three.things)}
    assert len(colours) == 4, "no colour means two things"
    assert (nothing.colour, nothing.mask, nothing.file) == (None, None, None)
    assert unescape(nothing.result) == "No such thing."
    assert nothing.chosen
    assert downloads([empty]) == downloads([]) == []


def test_the_same_query_replaces_its_finding_and_the_oldest_makes_room(prediction: Prediction) -> None:
    findings: Findings = ()
    for query in ("The cat.", "the cup", "the  Cat"):
        findings, new, gone = put(findings, replace(prediction, query=query), 2)
    assert [one.prediction.query for one in findings] == ["the  Cat", "the cup"]
    assert gone == ()
    assert new.first == 0, "it keeps its colour"
    findings, new, gone = put(findings, replace(prediction, query="the bus"), 2)
    assert [one.prediction.query for one in (*gone, *findings)] == ["the  Cat", "the cup", "the bus"]
    refined = replace(prediction, score=0.5)
    assert [one.prediction is refined for one in changed(findings, new.id, refined)] == [False, True]


def test_file_names_contain_no_text_of_the_visitor(prediction: Prediction) -> None:
    evil = replace(prediction, query='../../etc/<b>"\ud800杯', instances=(Instance(prediction.mask, 0.5),) * 2)
    files = downloads([evil])
    assert [file.name for file in files] == ["mask.png", "instances.png", "coco.json"]
    assert json.loads(decoded(files[-1].address))["categories"][0]["name"] == evil.query


def decoded(address: str) -> bytes:
    return base64.b64decode(address.partition("base64,")[2], validate=True)
