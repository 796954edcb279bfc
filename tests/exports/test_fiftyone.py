"""Predictions as FiftyOne's own labels, and our COCO files through its importer.

In a process of its own, as importing FiftyOne warns of what its dependencies will drop. Its database is not needed for
labels and samples; nothing here speaks to one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from exports.made import blobs, found, two_cups
from seglens.exports import Page, to_fiftyone, write
from seglens.prediction import Prediction

SCRIPT = """
import json, sys
from pathlib import Path
import fiftyone, numpy as np
from fiftyone.utils.coco import COCOObject
from exports.test_fiftyone import predictions
from seglens.exports import to_fiftyone

folder = Path(sys.argv[1])
sample = fiftyone.Sample(filepath="a.png", found=to_fiftyone(predictions()))
labels = {"own": fiftyone.Sample.from_json(sample.to_json()).found.detections}
for form in ("coco", "coco_polygons"):
    said = json.loads((folder / f"{form}.json").read_text())
    names = {one["id"]: one["name"] for one in said["categories"]}
    labels[form] = [
        COCOObject.from_anno_dict(one).to_detection((60, 40), classes_map=names, load_segmentation=True)
        for one in said["annotations"]
    ]
for form, some in labels.items():
    np.save(folder / f"{form}.npy", [one.to_segmentation(frame_size=(60, 40)).mask > 0 for one in some])
print(json.dumps({form: [[one.label, one.bounding_box] for one in some] for form, some in labels.items()}))
print(json.dumps([one.confidence for one in labels["own"]]))
"""


def predictions() -> list[Prediction]:
    return [two_cups(), found("dog", np.zeros((40, 60), bool)), found("cat", blobs(2, (40, 60)))]


@pytest.mark.slow
def test_its_labels_and_its_importer_give_the_same_pixels(tmp_path: Path) -> None:
    write([Page("a", predictions(), "a.png")], tmp_path, ["coco", "coco-polygons"])
    tests = Path(__file__).parents[1]
    places = {
        "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent / 'src'}", "HOME": str(tmp_path), "FIFTYONE_DO_NOT_TRACK": "1"
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path], env={**os.environ, **places}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said, confidence = map(json.loads, done.stdout.splitlines()[-2:])
    things = [(p.query, one) for p in predictions() for one in p.things]
    for form in ("own", "coco", "coco_polygons"):
        masks = np.load(tmp_path / f"{form}.npy")
        for (query, one), (label, box), mask in zip(things, said[form], masks, strict=True):
            x0, y0, x1, y1 = one.box
            assert label == query
            assert box == pytest.approx([x0 / 60, y0 / 40, (x1 - x0) / 60, (y1 - y0) / 40])
            np.testing.assert_array_equal(mask, one.mask)
    assert confidence == [0.9, 0.8, 0.75]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ImportError, match=r"pip install 'seglens\[fiftyone\]'"):
        to_fiftyone(two_cups())
