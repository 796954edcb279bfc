"""What the browser is given: layers at the size they are shown at, marks in the pixels of the image."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from seglens.page.layers import COLOURS, FILL, LINE, colour_of, heat_layer, mask_layer, picture, shown_size
from seglens.page.takeaway import takeaway
from seglens.page.view import view_of
from seglens.prediction import Instance, Prediction
from seglens.schema import Box, Click, Corrections
from seglens.segmenter import OpenedImage


@pytest.fixture(scope="module")
def found(opened: OpenedImage) -> Prediction:
    return opened.segment("the largest thing")


@pytest.mark.parametrize(
    ("size", "shown"),
    [((256, 256), (256, 256)), ((4000, 3000), (1280, 960)), ((1, 40_000), (1, 1280)), ((1280, 1), (1280, 1))],
)
def test_pictures_are_shrunk_and_never_enlarged(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert shown_size(*size, 1280) == shown
    assert picture(np.zeros((*size[::-1], 3), np.uint8), 1280).size == shown


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


def test_a_large_mask_is_shown_small_and_taken_away_whole(found: Prediction) -> None:
    side = 64
    assert mask_layer([found.mask], side).size == heat_layer(found, side).size == (side, side)
    (mask, _) = takeaway([found])
    assert Image.open(io.BytesIO(decoded(mask.address))).size == found.mask.shape[::-1]


def test_the_heat_is_clear_where_nobody_looked(found: Prediction) -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 0.3
    alpha = np.array(heat_layer(replace(found, heat_map=heat), 1280))[..., 3]
    assert alpha[0, 0] == alpha.max() > 0
    assert alpha[-1, -1] == 0
    assert heat_layer(replace(found, heat_map=None), 1280) is None


def test_marks_lie_where_the_user_put_them(found: Prediction) -> None:
    shown = Corrections(clicks=(Click(x=10, y=20), Click(x=30, y=40, label=0)), box=Box(x0=1, y0=2, x1=11, y1=22))
    view = view_of(found.image, [replace(found, corrections=shown)], 1280)
    assert [mark.label for mark in view.clicks] == [1, 0]
    plus, minus = (mark.path for mark in view.clicks)
    assert plus.count("M") == 2, "a plus is two strokes"
    assert minus.count("M") == 1
    assert minus.split()[1].startswith("40")
    assert (view.box.x, view.box.y, view.box.width, view.box.height) == (1, 2, 10, 20)
    assert len(view.keypoints) == len(found.keypoints)


def test_the_legend_names_every_thing_or_says_that_there_is_none(found: Prediction) -> None:
    (alone,) = view_of(found.image, [found], 1280).things
    assert alone.says.startswith("score ")
    one = Instance(found.mask, 0.5)
    several = view_of(found.image, [replace(found, instances=(one, one, one))], 1280).things
    assert [entry.says[:2] for entry in several] == ["1:", "2:", "3:"]
    assert len({entry.colour for entry in several}) == 3
    empty = replace(found, mask=np.zeros_like(found.mask), found=False, score=None, reason="Nothing fits.")
    (nothing,) = view_of(found.image, [empty], 1280).things
    assert nothing.says == "Nothing fits."
    assert takeaway([empty]) == takeaway([]) == []


def test_names_of_files_hold_nothing_that_was_typed(found: Prediction) -> None:
    evil = replace(found, query='../../etc/<b>"\ud800杯', instances=(Instance(found.mask, 0.5),) * 2)
    files = takeaway([evil])
    assert [file.name for file in files] == ["mask.png", "instances.png", "coco.json"]
    assert json.loads(decoded(files[-1].address))["categories"][0]["name"] == evil.query


def decoded(address: str) -> bytes:
    return base64.b64decode(address.partition("base64,")[2], validate=True)
