"""Predictions as FiftyOne's own labels, and our COCO files through its importer.

In a process of its own, as importing FiftyOne warns of what its dependencies will drop. Its database is not needed for
labels and samples; nothing here connects to one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exports.predictions import ORDINARY, blobs, prediction_of, spots, two_cups
from seglens.exports import AnnotatedImage, to_fiftyone, write_results
from seglens.exports.fiftyone import _shares
from seglens.inference.prediction import Prediction

SCRIPT = """
import json, sys
from pathlib import Path
import fiftyone, numpy as np
from fiftyone.utils.coco import COCOObject
from exports.test_fiftyone import SIZES, predictions
from seglens.exports import to_fiftyone

for size in SIZES:
    folder = Path(sys.argv[1]) / str(size[0])
    sample = fiftyone.Sample(filepath="a.png", found=to_fiftyone(predictions(size)))
    labels = {"own": fiftyone.Sample.from_json(sample.to_json()).found.detections}
    for form in ("coco", "coco_polygons"):
        content = json.loads((folder / f"{form}.json").read_text())
        names = {one["id"]: one["name"] for one in content["categories"]}
        labels[form] = [
            COCOObject.from_anno_dict(one).to_detection(size, classes_map=names, load_segmentation=True)
            for one in content["annotations"]
        ]
    for form, some in labels.items():
        if form == "own" or size == SIZES[0]:
            np.save(folder / f"{form}.npy", [one.to_segmentation(frame_size=size).mask > 0 for one in some])
        else:  # what it made of the polygons and run lengths, before it lays them onto the picture
            np.savez(folder / f"{form}.npz", *[one.mask for one in some])
    boxes = {form: [[one.label, one.bounding_box] for one in some] for form, some in labels.items()}
    (folder / "labels.json").write_text(json.dumps([boxes, [one.confidence for one in labels["own"]]]))
"""
SIZES = ((60, 40), *ORDINARY)


def predictions(size: tuple[int, int]) -> list[Prediction]:
    """A thing with a hole, one without, nothing, and shapes all over the picture."""
    shape = size[::-1]
    if size == SIZES[0]:
        return [two_cups(), prediction_of("dog", np.zeros(shape, bool)), prediction_of("cat", blobs(2, shape))]
    masks = spots(3, size, 100)
    return [prediction_of("spots", np.logical_or.reduce(masks), masks), prediction_of("dog", np.zeros(shape, bool))]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our labels and our files as FiftyOne reads them."""
    folder = tmp_path_factory.mktemp("read")
    for size in SIZES:
        write_results(
            [AnnotatedImage("a", predictions(size), "a.png")], folder / str(size[0]), ["coco", "coco-polygons"]
        )
    tests = Path(__file__).parents[1]
    places = {
        "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent / 'src'}",
        "HOME": str(folder),
        "FIFTYONE_DO_NOT_TRACK": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder], env={**os.environ, **places}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_its_labels_and_its_importer_give_the_same_pixels(size: tuple[int, int], read: Path) -> None:
    """Its importer rounds COCO's boxes down to whole pixels, which at some sizes moves a mask by one: there the cut-out
    that it read is compared."""
    folder = read / str(size[0])
    labels, confidence = json.loads((folder / "labels.json").read_text())
    things = [(p.query, one) for p in predictions(size) for one in p.things]
    for form in ("own", "coco", "coco_polygons"):
        whole = form == "own" or size == SIZES[0]
        masks = np.load(folder / f"{form}.npy") if whole else np.load(folder / f"{form}.npz").values()
        for (query, one), (label, box), mask in zip(things, labels[form], masks, strict=True):
            x0, y0, x1, y1 = one.box
            assert label == query
            shares = [x0 / size[0], y0 / size[1], (x1 - x0) / size[0], (y1 - y0) / size[1]]
            assert box == pytest.approx(shares, abs=1e-14)
            np.testing.assert_array_equal(mask, one.mask if whole else one.mask[y0:y1, x0:x1])
    assert confidence == [one.score for _, one in things]


@given(st.integers(1, 5000).flatmap(lambda side: st.tuples(st.just(side), *2 * [st.integers(0, side)])))
def test_a_box_survives_being_cut_down_to_pixels(box: tuple[int, int, int]) -> None:
    """As eta's geometry does it: int(side * share) of both ends, no share above one."""
    side, (start, end) = box[0], sorted(box[1:])
    first, length = _shares(start, end, side)
    assert (int(side * first), int(side * min(first + length, 1))) == (start, end)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ImportError, match=r"pip install 'seglens\[fiftyone\]'"):
        to_fiftyone(two_cups())
