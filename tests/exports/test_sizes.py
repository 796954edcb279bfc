"""Every format at ordinary sizes of pictures: a reader gets the same masks back."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import supervision
from jaxtyping import Bool
from pycocotools.coco import COCO

from exports.predictions import ORDINARY, blobs, prediction_of, spots
from exports.test_geojson import polygons
from exports.test_labelstudio import decoded
from exports.test_outline import filled
from seglens.data import load_data
from seglens.data.images import load_labels
from seglens.data.maskfile import load_mask
from seglens.exports import FORMATS, AnnotatedImage, to_supervision, write_results
from seglens.inference.prediction import Prediction

# pycocotools gives numpy 2 arrays in a way that numpy 1 knew.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.parametrize("size", ORDINARY, ids=str),
]


def predictions(size: tuple[int, int]) -> list[Prediction]:
    """Twenty things one by one, and a shape of many pieces with holes."""
    masks = spots(5, size, 20)
    return [prediction_of("spots", np.logical_or.reduce(masks), masks), prediction_of("blobs", blobs(4, size[::-1]))]


def things(size: tuple[int, int]) -> list[Bool[np.ndarray, "h w"]]:
    return [one.mask for p in predictions(size) for one in p.things]


@pytest.fixture
def folder(tmp_path: Path, size: tuple[int, int]) -> Path:
    write_results([AnnotatedImage("a", predictions(size))], tmp_path, list(FORMATS))
    return tmp_path


def test_exact_formats(folder: Path, size: tuple[int, int]) -> None:
    """pycocotools, Label Studio's converter, the even-odd rule on GeoJSON, label maps, our own reader of YOLO."""
    wanted = things(size)
    for name in ("coco.json", "coco_polygons.json"):
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = COCO(str(folder / name))
        for record, mask in zip(dataset.anns.values(), wanted, strict=True):
            np.testing.assert_array_equal(dataset.annToMask(record), mask)
    (task,) = json.loads((folder / "labelstudio.json").read_text())
    for record, mask in zip(task["predictions"][0]["result"], wanted, strict=True):
        np.testing.assert_array_equal(decoded(record["value"]["rle"], *mask.shape), mask)
    for record, mask in zip(json.loads((folder / "a.geojson").read_text())["features"], wanted, strict=True):
        rings = [np.array(ring[:-1]) for shape in polygons(record) for ring in shape]
        np.testing.assert_array_equal(filled(rings, mask.shape), mask)
    np.testing.assert_array_equal(load_labels(folder / "a_indexed.png") > 0, np.logical_or.reduce(wanted))
    for prediction in predictions(size):
        np.testing.assert_array_equal(load_mask(folder / f"a_{prediction.query}_mask.png"), prediction.mask)
    (sample,) = load_data(f"yolo:data={folder / 'data.yaml'},split=val")
    for prediction, target in zip(predictions(size), sample.targets, strict=True):
        np.testing.assert_array_equal(target.mask, prediction.mask)


def test_supervision(folder: Path, size: tuple[int, int]) -> None:
    """Its own objects are exact. From YOLO's polygons it draws outlines too: up to one pixel more."""
    wanted = things(size)
    np.testing.assert_array_equal(to_supervision(predictions(size)).mask, wanted)
    read = supervision.DetectionDataset.from_yolo(
        str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml"), force_masks=True
    )
    ((_, _, annotations),) = read
    for mask, one in zip(wanted[:-1], annotations.mask, strict=False):
        grown = mask | np.roll(mask, 1, 0) | np.roll(mask, 1, 1) | np.roll(mask, (1, 1), (0, 1))
        assert (one >= mask).all()
        assert (one <= grown).all()
