"""What a user gets back, from predictions made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seglens.core.file_names import slug
from seglens.data.maskfile import load_mask
from seglens.data.masks import decode_rle
from seglens.inference.overlay import INSIDE, OUTSIDE
from seglens.inference.prediction import Prediction, on_mask


@pytest.fixture
def prediction() -> Prediction:
    """A square found in a landscape image, one keypoint on it, one off it, one in the canvas's padding."""
    mask = np.zeros((60, 100), bool)
    mask[10:30, 20:50] = True
    points = np.array([[35, 20], [80, 50], [50, 90]], np.float32)
    return Prediction(
        query="the square",
        image=np.full((60, 100, 3), 90, np.uint8),
        mask=mask,
        logits=np.where(mask, 4, -4).astype(np.float32),
        score=0.98,
        presence=0.9,
        found=True,
        heat_map=np.random.default_rng(0).random((8, 8), np.float32),
        keypoints=points,
        keypoint_scores=np.array([0.5, 0.2, 0.1], np.float32),
        keypoint_labels=on_mask(mask, points),
        timing={"open": 1.234},
    )


def test_points_on_the_mask_are_labelled(prediction: Prediction) -> None:
    assert prediction.keypoint_labels.tolist() == [True, False, False]
    edges = np.array([[20, 10], [19.99, 10], [49.99, 29.99], [50, 29], [-1, -1], [1e6, 1e6]])
    assert on_mask(prediction.mask, edges).tolist() == [True, False, True, False, False, False]


def test_the_overlay_shows_mask_and_points(prediction: Prediction) -> None:
    picture = prediction.overlay()
    assert picture.size == (100, 60)
    assert picture.getpixel((35, 20)) == INSIDE
    assert picture.getpixel((80, 50)) == OUTSIDE
    assert picture.getpixel((20, 10)) != (90, 90, 90)  # the outline
    plain = replace(
        prediction,
        heat_map=None,
        keypoints=np.zeros((0, 2)),
        keypoint_scores=np.zeros(0),
        keypoint_labels=np.zeros(0, bool),
    )
    assert plain.overlay().getpixel((90, 5)) == (90, 90, 90)
    assert prediction.overlay(heat=False).getpixel((90, 5)) == (90, 90, 90)


def test_the_heat_lies_on_the_image_and_not_on_the_padding(prediction: Prediction) -> None:
    heat = np.full((8, 8), 0.001, np.float32)
    heat[0, 7] = 1.0  # top right of the canvas, which is the top right of a landscape image
    cold, warm = (
        replace(prediction, heat_map=h, mask=np.zeros_like(prediction.mask)).overlay() for h in (heat * 0 + 1e-9, heat)
    )
    assert np.asarray(warm)[2, 97, 0] > np.asarray(warm)[2, 5, 0] + 50
    assert cold.size == warm.size


def test_a_long_thin_image_costs_its_own_pixels_only(prediction: Prediction) -> None:
    thin = replace(
        prediction,
        image=np.zeros((1, 100_000, 3), np.uint8),
        mask=np.zeros((1, 100_000), bool),
        logits=np.zeros((1, 100_000), np.float32),
    )
    assert thin.overlay().size == (100_000, 1)  # a square canvas of it would be 40 GB


def test_the_dictionary_is_json_and_decodes(prediction: Prediction) -> None:
    read = json.loads(json.dumps(prediction.to_dict(), allow_nan=False))
    np.testing.assert_array_equal(decode_rle(read["segmentation"]), prediction.mask)
    assert read["box"] == [20, 10, 50, 30]
    assert read["area"] == 600
    assert read["keypoints"][0] == {"x": 35.0, "y": 20.0, "score": 0.5, "on_target": True}
    assert read["milliseconds"] == {"open": 1.23}
    assert read["presence"] == 0.9
    assert replace(prediction, presence=None).to_dict()["presence"] is None


def test_the_box(prediction: Prediction) -> None:
    x0, y0, x1, y1 = prediction.box or (0, 0, 0, 0)
    assert prediction.mask[y0:y1, x0:x1].all()
    assert replace(prediction, mask=np.zeros_like(prediction.mask)).box is None
    corner = np.zeros_like(prediction.mask)
    corner[59, 99] = True
    assert replace(prediction, mask=corner).box == (99, 59, 100, 60)


def test_saving_loses_nothing(prediction: Prediction, tmp_path: Path) -> None:
    paths = prediction.save(tmp_path / "deep" / "folder", "one")
    assert {path.name for path in paths.values()} == {"one_mask.png", "one_overlay.png"}
    np.testing.assert_array_equal(load_mask(paths["mask"]), prediction.mask)
    with Image.open(paths["overlay"]) as overlay:
        np.testing.assert_array_equal(np.asarray(overlay), np.asarray(prediction.overlay()))
    assert sorted(p.name for p in (tmp_path / "deep" / "folder").iterdir()) == ["one_mask.png", "one_overlay.png"]


def test_saving_writes_over_nothing_else(prediction: Prediction, tmp_path: Path) -> None:
    paths = prediction.save(tmp_path)
    prediction.save(tmp_path)  # the same once more
    other = replace(prediction, mask=~prediction.mask)
    with pytest.raises(
        FileExistsError, match=r"'.*prediction_mask.png' is there already \(and 1 more\); choose another"
    ):
        other.save(tmp_path)
    np.testing.assert_array_equal(load_mask(paths["mask"]), prediction.mask)
    other.save(tmp_path, overwrite=True)
    np.testing.assert_array_equal(load_mask(paths["mask"]), other.mask)


@given(st.text())
def test_a_file_name_is_never_a_path(text: str) -> None:
    name = slug(text)
    assert 0 < len(name.encode()) <= 80
    assert not set(name) & set("/\\:*?<>|\"'-. \0\n")
    assert slug(name) == name


def test_a_file_name_is_readable() -> None:
    assert slug("The thing, that keeps you dry!") == "the_thing_that_keeps_you_dry"
    assert slug("../../etc/passwd") == "etc_passwd"
    assert slug("雨") == "雨"
    assert slug("की") != slug("का")  # vowels that are marks


def test_texts_without_letters_and_long_ones_have_names_of_their_own() -> None:
    long = "the thing that keeps you dry when it rains cats and dogs and everything else " * 2
    texts = ["?", "!", "😀", long, f"{long} today", "雨" * 40, "雨" * 41]
    assert len({slug(text) for text in texts}) == len(texts)
    assert slug("?").startswith("query_")
    assert slug(long).startswith("the_thing_that_keeps_you_dry_when_it_rains_cats_and_dogs_and_everything")
