"""SegLens as Python programs and notebooks use it: what is shown, kept, pickled and refused."""

from __future__ import annotations

import base64
import copy
import io
import json
import multiprocessing
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

import seglens
from seglens.core.types import Sample
from seglens.inference.notebook import SIDE, small_png
from seglens.inference.opened_image import OpenedImage
from seglens.inference.prediction import ARRAYS, Prediction
from seglens.inference.segmenter import Segmenter


@pytest.fixture(scope="module")
def prediction(opened: OpenedImage, scene: Sample) -> Prediction:
    return next(p for p in opened.segment([t.query for t in scene.targets], each=True) if p.found)


# ---------------------------------------------------------------- what is shown


def test_a_prediction_is_described_in_one_line(prediction: Prediction) -> None:
    line = repr(prediction)
    assert len(line) < 200
    assert "\n" not in line
    assert line.startswith(f"Prediction({prediction.query!r}: score {prediction.score:.2f}")
    assert f"{int(prediction.mask.sum())} of 256 x 256 pixels" in line
    assert "not found" in repr(replace(prediction, found=False, score=None, mask=np.zeros_like(prediction.mask)))


def test_notebooks_show_the_overlay(prediction: Prediction) -> None:
    picture = np.asarray(Image.open(io.BytesIO(prediction._repr_png_())))
    np.testing.assert_array_equal(picture, np.asarray(prediction.overlay(heat=False)))
    evil = replace(prediction, query="<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in evil
    assert "&lt;script&gt;" in evil
    held = re.search(r'src="data:image/png;base64,([^"]+)"', evil)
    assert held
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(held[1])))), picture)
    wide = Image.open(io.BytesIO(small_png(Image.new("RGB", (3 * SIDE, SIDE)))))
    assert wide.size == (SIDE, SIDE // 3) or wide.size == (SIDE, SIDE // 3 + 1)


def test_a_prediction_is_plotted_with_matplotlib(prediction: Prediction, monkeypatch: pytest.MonkeyPatch) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot

    axes = prediction.plot()
    np.testing.assert_array_equal(axes.images[0].get_array(), np.asarray(prediction.overlay()))
    assert prediction.query in axes.get_title()
    _, mine = pyplot.subplots()
    assert prediction.plot(mine, heat=False) is mine
    pyplot.close("all")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot")
    with pytest.raises(ImportError, match=r"pip install 'seglens\[plot\]'"):
        prediction.plot()


# ---------------------------------------------------------------- what is kept


def test_arrays_of_a_prediction_are_read_only(prediction: Prediction) -> None:
    arrays = {name: getattr(prediction, name) for name in ARRAYS if getattr(prediction, name) is not None}
    assert {"image", "mask", "heat_map", "keypoints", "canvas_logits"} <= arrays.keys()
    arrays |= {"mask_logits": prediction.mask_logits, "instance": prediction.instances[0].mask}
    for array in arrays.values():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_arrays_of_a_copy_are_read_only(prediction: Prediction) -> None:
    for other in (pickle.loads(pickle.dumps(prediction)), copy.deepcopy(prediction)):
        test_arrays_of_a_prediction_are_read_only(other)
        np.testing.assert_array_equal(other.instances[0].mask, prediction.instances[0].mask)
        with pytest.raises(ValueError, match="read-only"):
            other.instances[0].cut[0] = 0


def test_arrays_of_the_caller_stay_writable(segmenter: Segmenter, prediction: Prediction) -> None:
    image = np.full((40, 50, 3), 200, np.uint8)
    answer = segmenter.segment(image, "the cup")
    image[:] = 0
    assert answer.image.min() == 200
    mask = np.zeros((256, 256), bool)
    changed = replace(prediction, mask=mask)
    mask[0, 0] = True  # still writable
    assert not changed.mask.flags.writeable


# ---------------------------------------------------------------- what goes to another process


def segmented(segmenter: Segmenter, image: np.ndarray, query: str) -> Prediction:
    return segmenter.segment(image, query)


def test_a_segmenter_can_be_sent_to_another_process(scene: Sample) -> None:
    mine = Segmenter.from_pretrained(device="cpu", mask_threshold=0.5, presence_threshold=0.2)
    mine.mask_threshold = 0.25
    query = scene.targets[0].query
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        answer = pool.apply(segmented, (mine, scene.image, query))
    right = mine.segment(scene.image, query)
    np.testing.assert_array_equal(answer.mask, right.mask)
    # a process of other threads sums in another order
    np.testing.assert_allclose(answer.mask_logits, right.mask_logits, atol=1e-3)
    assert repr(answer) == repr(right)


def test_a_folder_is_found_from_anywhere(segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter.save_pretrained(tmp_path / "head")
    monkeypatch.chdir(tmp_path)
    loaded = pickle.dumps(Segmenter.from_pretrained("head", device="cpu", segmentation_only=True))
    assert len(loaded) < 10_000
    monkeypatch.chdir("/")
    again: Segmenter = pickle.loads(loaded)
    assert not again.backbone.can_chat


def test_a_segmenter_from_parts_cannot_be_pickled(segmenter: Segmenter) -> None:
    from_parts = Segmenter(segmenter.backbone, segmenter.decoder, segmenter.method, segmenter.config)
    with pytest.raises(pickle.PicklingError, match=r"save_pretrained\(\) it, and use Segmenter.from_pretrained"):
        pickle.dumps(from_parts)


# ---------------------------------------------------------------- the package's own name


def test_the_package_lists_its_names() -> None:
    assert {"Segmenter", "Prediction", "OpenedImage", "__version__"} <= {*dir(seglens)}
    script = "import sys, seglens; assert 'Segmenter' in dir(seglens); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_one_bar_at_most_while_loading() -> None:
    code = "from seglens import Segmenter; Segmenter.from_pretrained(device='cpu')"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    bars = [line for line in re.split(r"[\r\n]", run.stdout + run.stderr) if "100%" in line]
    assert len(bars) <= 1


# ---------------------------------------------------------------- what is refused

# In a separate process: here every type is checked before our own errors could be raised.
WRONG = """
import json, numpy as np, torch
from seglens import Segmenter
from seglens.core.schema import Box, Click

segmenter = Segmenter.from_pretrained(device="cpu")
picture = np.zeros((8, 8, 3), np.uint8)
opened = segmenter.open(picture)
said = opened.segment("the cup", trust=True)
images = [None, 3, {}, torch.zeros(3, 8, 8), np.zeros((8, 8, 3)), b"no image", [None]]
queries = [3, None, {"a": 1}, b"the cup", np.zeros(3), ["the cup", 3], [None]]
corrections = [([(1, 2)], None), (Click(x=1, y=2), None), ("1,2", None), ([], (1, 2, 3, 4))]
loading = [
    {"name": None}, {"name": 3}, {"device": None}, {"device": 3}, {"device": "gpu"}, {"mask_threshold": "high"},
    {"mask_threshold": float("nan")},
]
calls = {
    "image": [lambda i=i: segmenter.segment(i, "the cup") for i in images],
    "query": [lambda q=q: opened.segment(q) for q in queries],
    "queries": [lambda q=q: segmenter.segment([picture], q) for q in queries],
    "question": [lambda q=q: segmenter.ask(picture, q) for q in (None, 3, b"what?", ["what?"])],
    "correction": [lambda c=c: opened.refine(said, *c) for c in corrections],
    "prediction": [lambda: opened.refine("the cup", [Click(x=1, y=1)])],
    "loading": [lambda o=o: Segmenter.from_pretrained(**o) for o in loading],
}

def told(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]

print(json.dumps({name: [told(call) for call in some] for name, some in calls.items()}))
"""
NEEDED = {
    "image": [
        "got NoneType for an image; need",
        "got int",
        "got dict",
        "got Tensor",
        "float64",
        "need JPEG, PNG",
        "got NoneType",
    ],
    "query": [
        "got int for a query; need a string, or a list of strings",
        "got NoneType",
        "got dict",
        "got bytes",
        "got an array of shape (3,)",
        "got int in the list of queries; need strings",
        "got NoneType in the list",
    ],
    "queries": [
        "got int for a query",
        "got NoneType for a query",
        "got dict",
        "got bytes",
        "got an array",
        "got 1 images",
        "got NoneType for a query",
    ],
    "question": ["got NoneType for a question; need a string", "got int", "got bytes", "got list"],
    "correction": [
        "got tuple for a click; need Click(x=",
        "got Click for the clicks; need a list",
        "got str for the clicks",
        "got tuple for the box; need Box(x0=",
    ],
    "prediction": ["got str to refine; need a prediction"],
    "loading": [
        "got NoneType for a model; need",
        "got int for a model",
        "got NoneType for a device; need auto, cpu",
        "got int for a device",
        "try auto, cpu, cuda or mps",
        "got 'high' for mask_threshold; need a number",
        "got nan for mask_threshold",
    ],
}
KINDS = {"ImageError", "QuestionError", "CorrectionError", "CheckpointError", "ValueError"}


def test_wrong_types_are_refused_in_one_sentence() -> None:
    ran = subprocess.run([sys.executable, "-c", WRONG], check=True, capture_output=True, text=True)
    errors = json.loads(ran.stdout)
    assert {name: len(some) for name, some in errors.items()} == {name: len(some) for name, some in NEEDED.items()}
    for name, some in NEEDED.items():
        for (kind, message), words in zip(errors[name], some, strict=True):
            assert words in message, (name, message)
            assert kind in KINDS, (name, kind)
            assert "\n" not in message
