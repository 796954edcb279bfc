"""ReasonSeg: LISA's masks, its first sentences, and every bad file named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_refer import SIZE, changed, reason, save_image, save_reason, shape

from seglens.data import load_data
from seglens.data.reasonseg import Shapes
from seglens.data.records import Records
from shared import shared


def load(root: Path, options: str = "") -> Records:
    data = load_data(f"reasonseg:root={root}{options}")
    assert isinstance(data, Records)
    return data


def lisa(cv2: Any, file: Path, size: tuple[int, int]) -> np.ndarray:
    """0, 1 and 255, one shape painted after the other."""
    painted = []
    for one in json.loads(file.read_bytes())["shapes"]:
        if one["label"].lower() != "flag":
            alone, corners = np.zeros(size, np.uint8), np.array([one["points"]], np.int32)
            cv2.polylines(alone, corners, True, 1, 1)
            cv2.fillPoly(alone, corners, 1)
            painted.append((int(alone.sum()), 255 if "ignore" in one["label"].lower() else 1, alone == 1))
    canvas = np.zeros(size, np.uint8)
    for _, value, mask in sorted(painted, key=lambda item: -item[0]):
        canvas[mask] = value
    return canvas


def test_the_real_image() -> None:
    root = shared("reasonseg")
    (sample,) = load(root)
    (target,) = sample.targets
    assert (target.query, target.kind) == ("the places where the driver can observe the speed", "short")
    assert target.ignore is not None
    # Counted with opencv-python 4.8.0.74, the version that LISA pins. OpenCV 4.11 and later: 27,717 and 12,694.
    assert (target.mask.sum(), target.ignore.sum()) == (27_720, 12_696)
    assert not (target.mask & target.ignore).any()


def test_the_real_image_as_opencv_paints_it() -> None:
    root = shared("reasonseg")
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    (sample,) = load(root)
    canvas = lisa(cv2, next((root / "ReasonSeg" / "val").glob("*.json")), sample.image.shape[:2])
    ignore = sample.targets[0].ignore
    assert ignore is not None
    differ = int((sample.targets[0].mask != (canvas == 1)).sum() + (ignore != (canvas == 255)).sum())
    version = tuple(map(int, cv2.__version__.split(".")[:2]))
    assert differ == (0 if version < (4, 11) else 5)  # measured with 4.8, 4.10; 4.11, 4.12, 4.13


def test_small_shapes_are_on_top(tmp_path: Path) -> None:
    (sample,) = load(save_reason(tmp_path))
    (target,) = sample.targets  # the official evaluation asks the first sentence only
    assert (target.query, target.kind) == ("the thing that opens the tin", "long")
    expected, ignored = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    expected[3:31, 2:41] = True
    ignored[5:16, 5:16], ignored[8:12, 8:12] = True, False
    np.testing.assert_array_equal(target.mask, expected & ~ignored)
    np.testing.assert_array_equal(target.ignore, ignored)


def test_of_two_equal_shapes_the_earlier_is_on_top() -> None:
    square = np.array([[2, 2], [9, 2], [9, 9], [2, 9]])
    target_first = Shapes(((False, square), (True, square))).draw((20, 20))
    assert target_first.mask.sum() == 64
    assert target_first.ignore is None
    assert not Shapes(((True, square), (False, square))).draw((20, 20)).mask.any()


def test_which_sentences(tmp_path: Path) -> None:
    save_reason(tmp_path, "train")
    save_reason(tmp_path, "val", content=reason(is_sentence=False, text=[" shoe\n"]))
    train = load(tmp_path, ",split=train")
    assert [t.query for t in train[0].targets] == reason()["text"]
    assert train.trainable
    assert len(load(tmp_path, ",split=train,sentences=first")[0].targets) == 1
    val = load(tmp_path, ",sentences=all")
    assert [(t.query, t.kind) for t in val[0].targets] == [("shoe", "short")]
    assert not val.trainable
    with pytest.raises(ValueError, match="choose from auto, first, all"):
        load(tmp_path, ",sentences=both")


def test_explanations(tmp_path: Path) -> None:
    save_reason(tmp_path, "train")
    save_reason(tmp_path, "val")
    file = tmp_path / "ReasonSeg" / "explanatory" / "train.json"
    file.parent.mkdir()
    good = {"image": "one.jpg", "query": "what opens a tin", "outputs": "The tin opener."}
    file.write_text(json.dumps([good]))
    assert [t.answer for t in load(tmp_path, ",split=train")[0].targets] == ["The tin opener."] * 2
    assert load(tmp_path)[0].targets[0].answer is None
    bad = [{**good, "image": "two.jpg"}, {**good, "outputs": 3}, {"image": "one.jpg"}, 7, {**good, "outputs": " "}]
    file.write_text(json.dumps([good, *bad]))
    assert [f.record for f in load(tmp_path, ",split=train,bad=skip").faults] == [f"item {n}" for n in range(1, 6)]
    for text, message in [("{}", "holds a dict"), ("[", "no whole json")]:
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"explanatory/train\.json: .*{message}"):
            load(tmp_path, ",split=train,bad=skip")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = json.dumps(reason(text=["le café – où ?"]), ensure_ascii=False)
    assert load(save_reason(tmp_path, content=text.encode(encoding)))[0].targets[0].query == "le café – où ?"


GOOD = reason()
BAD_FILES: dict[str, tuple[Any, str]] = {
    "cut short": (json.dumps(GOOD).encode()[:-9], "no whole json"),
    "empty": (b"", "no whole json"),
    "neither encoding": (b'{"text": "\x81\xff"}', "no whole json"),
    "nested": (b"[" * 200_000, "no whole json"),
    "a list": ([GOOD], "text is missing"),
    "no text": ({k: v for k, v in GOOD.items() if k != "text"}, "text is missing"),
    "text not a list": (reason(text="one"), "list of one sentence"),
    "no sentence": (reason(text=[]), "list of one sentence"),
    "empty sentence": (reason(text=["  "]), "text[0] is empty"),
    "sentence of a number": (reason(text=[3]), "text[0] is empty"),
    "is_sentence a word": (reason(is_sentence="yes"), "is_sentence is a str"),
    "no shapes": (reason(shapes=[]), "no target"),
    "shapes an object": (reason(shapes={}), "shapes needs to be a list"),
    "only ignored": (reason(shapes=GOOD["shapes"][1:2]), "no target"),
    "no label": (changed(GOOD, ("shapes", 0), {"points": []}), "label is missing"),
    "label a number": (changed(GOOD, ("shapes", 0, "label"), 1), "shapes[0] has a label"),
    "no points": (changed(GOOD, ("shapes", 0), {"label": "target"}), "points is missing"),
    "two points": (changed(GOOD, ("shapes", 2), shape("target", (0, 0), (4, 4))), "shapes[2]: points are of shape"),
    "three numbers": (changed(GOOD, ("shapes", 0, "points"), [[1, 2, 3]] * 3), "shape (3, 3)"),
    "ragged": (changed(GOOD, ("shapes", 0, "points"), [[1, 2], [3], [4, 5]]), "not pairs of numbers"),
    "words": (changed(GOOD, ("shapes", 0, "points"), [["a", "b"]] * 3), "not pairs of numbers"),
    "not a number": (changed(GOOD, ("shapes", 0, "points", 0), [math.nan, 0]), "a point is no pixel"),
    "too large": (changed(GOOD, ("shapes", 0, "points", 0), [1e9, 0]), "a point is no pixel"),
    "far too large": (changed(GOOD, ("shapes", 0, "points", 0), [10**400, 0]), "not pairs of numbers"),
}


def test_each_bad_file_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    save_reason(tmp_path, name="good")
    for name, (content, _) in BAD_FILES.items():
        save_reason(tmp_path, name=name, content=content)
    folder = tmp_path / "ReasonSeg" / "val"
    save_image(folder / "no json.jpg")
    (folder / "no image.json").write_text(json.dumps(GOOD))
    data = load(tmp_path, ",bad=skip")
    assert [sample.id for sample in data] == ["good"]
    faults = {fault.record: fault for fault in data.check()}
    assert set(faults) == {*BAD_FILES, "no json", "no image"}
    for name, (_, message) in BAD_FILES.items():
        assert message in faults[name].message
        assert faults[name].file == str(folder / f"{name}.json")
    assert "no json.json is missing" in faults["no json"].message
    assert "no image.jpg is missing" in faults["no image"].message
    assert all("\n" not in str(fault) for fault in faults.values())
    with pytest.raises(ValueError, match=f"{len(faults)} bad records"):
        load(tmp_path)


def test_a_damaged_photograph_is_a_fault(tmp_path: Path) -> None:
    save_reason(tmp_path, name="a")
    (save_reason(tmp_path, name="b") / "ReasonSeg" / "val" / "b.jpg").write_bytes(b"\xff\xd8no")
    assert [fault.record for fault in load(tmp_path).check()] == ["b"]


def test_a_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mend root="):
        load(tmp_path)
