"""JSON lines in every form, and every way in which they can be wrong."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from own_data import judged
from seglens.data import load_data
from seglens.data.faults import DataError
from seglens.data.jsonl import jsonl_data
from seglens.data.masks import encode_rle, save_png
from seglens.data.records import Bad, Records

MASK = np.zeros((20, 30), bool)
MASK[5:15, 3:12] = True
SQUARE = [3, 5, 12, 5, 12, 15, 3, 15]
GOOD = {"image": "a.png", "text": "the cat", "polygons": [SQUARE]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20), "teal").save(tmp_path / name)
    save_png(MASK, tmp_path / "masks" / "a.png")
    save_png(MASK.T, tmp_path / "masks" / "turned.png")
    Image.fromarray(MASK.astype(np.uint8) * 7).save(tmp_path / "masks" / "seven.png")
    return tmp_path


def saved(root: Path, *lines: Any) -> Callable[..., Records]:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (root / "data.jsonl").write_text(text)

    def build(bad: Bad = "refuse", **options: Any) -> Records:
        return jsonl_data(file=root / "data.jsonl", bad=bad, **options)

    return build


FORMS: dict[str, dict[str, Any]] = {
    "mask file": {"mask": "masks/a.png"},
    "polygons": {"polygons": [SQUARE]},
    "two polygons": {"polygons": [[3, 5, 8, 5, 8, 15, 3, 15], [8, 5, 12, 5, 12, 15, 8, 15]]},
    "run lengths": {"rle": encode_rle(MASK)},
    "plain runs": {"rle": {"size": [20, 30], "counts": [65] + [10, 10] * 8 + [10, 365]}},
    "others null": {"mask": None, "polygons": [SQUARE], "rle": None, "ignore": None},
    "other keys": {"polygons": [SQUARE], "source": "a tool", "category": 3},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_mask(form: str, root: Path) -> None:
    (sample,) = saved(root, {"image": "a.png", "text": " the cat "} | FORMS[form])()
    (target,) = sample.targets
    assert (sample.id, target.query, target.kind) == ("a.png", "the cat", "phrase")
    np.testing.assert_array_equal(target.mask, MASK)


def test_lines_about_an_image_are_one_sample(root: Path) -> None:
    data = saved(
        root,
        GOOD | {"kind": "reasoning", "answer": "It sleeps.", "id": 1},
        {"image": "b.png", "text": ["a", "b"], "polygons": [SQUARE], "id": 2},
        "",
        GOOD | {"text": "the dog", "absent": True, "polygons": None, "id": 3},
        {"image": "b.png", "text": "c"},
        GOOD | {"text": "the fox", "ignore": [[0, 0, 5, 0, 5, 20, 0, 20]], "height": 20, "width": 30},
    )()
    first, second = data
    assert [target.query for target in first.targets] == ["the cat", "the dog", "the fox"]
    assert [target.present for target in first.targets] == [True, False, True]
    assert (first.targets[0].kind, first.targets[0].answer) == ("reasoning", "It sleeps.")
    ignore = first.targets[2].ignore
    assert ignore is not None
    assert (ignore[:, :5].all(), ignore[:, 5:].any()) == (True, False)
    assert [(target.query, target.present) for target in second.targets] == [("a", True), ("b", True), ("c", False)]
    assert [target.id for target in first.targets] == ["1", "3", "line 6"]


def test_a_list_of_masks_goes_with_a_list_of_words(root: Path) -> None:
    """As Sa2VA writes its annotations.json: one JSON list, polygons for each of several descriptions."""
    item = {"image": "a.png", "mask": [[SQUARE], [[20, 0, 30, 0, 30, 20, 20, 20]]], "text": ["left", "right"]}
    (root / "data.jsonl").write_text("\n " + json.dumps([item, {"image": "b.png"}], indent=1))
    samples, (fault,) = judged(lambda bad: jsonl_data(file=root / "data.jsonl", bad=bad))
    assert (fault.record, "has no text" in fault.message) == ("item 2", True)
    left, right = samples[0].targets
    assert (left.query, right.query) == ("left", "right")
    np.testing.assert_array_equal(left.mask, MASK)
    assert (right.mask[:, 20:].all(), right.mask[:, :20].any()) == (True, False)


def test_options(root: Path) -> None:
    saved(root, GOOD)
    (root / "elsewhere").mkdir()
    (root / "data.jsonl").rename(root / "elsewhere" / "data.jsonl")
    text = f"jsonl:file={root / 'elsewhere' / 'data.jsonl'},images={root}"
    assert len(load_data(text)) == 1
    assert [load_data(f"{text},split={split}").trainable for split in ("train", "val", "test")] == [True, False, False]


# A bad line, the kind of its fault, and the message. It is line 2, between two good ones.
LINES: dict[str, tuple[Any, str, str]] = {
    "no json": ('{"image": "a.png", ', "annotation", "is not JSON"),
    "no object": ("3", "annotation", "is int; it needs an object"),
    "nested": ("[" * 100_000, "annotation", "nested too deeply"),
    "no text": ({"image": "a.png", "polygons": [SQUARE]}, "annotation", "has no text; it needs words"),
    "empty text": (GOOD | {"text": [" "]}, "annotation", "it needs words"),
    "no image": ({"text": "x"}, "annotation", "has image None"),
    "lost image": (GOOD | {"image": "lost.png"}, "image", "there is no file"),
    "lost mask": ({"image": "a.png", "text": "x", "mask": "lost.png"}, "annotation", "names the mask 'lost.png'"),
    "two points": (GOOD | {"polygons": [[1, 2, 3, 4]]}, "mask", "polygon of 4 numbers"),
    "a flat polygon": (GOOD | {"polygons": SQUARE}, "annotation", "it needs a path, a list of"),
    "points in pairs": (GOOD | {"polygons": [[[3, 5], [12, 5], [12, 15]]]}, "mask", "not one flat list of x0, y0"),
    "NaN": (GOOD | {"polygons": [[1, 2, 3, float("nan"), 5, 6]]}, "mask", "no pixel"),
    "infinite": (GOOD | {"polygons": [[1, 2, 3, float("inf"), 5, 6]]}, "mask", "no pixel"),
    "huge": (GOOD | {"polygons": [[1, 2, 3, 10**400, 5, 6]]}, "mask", "not a list of numbers"),
    "too many digits": (f'{{"image": "a.png", "id": {"9" * 5000}}}', "annotation", "digits"),
    "another image's": (GOOD | {"polygons": [[3, 5, 120, 5, 120, 15]]}, "mask", "with the point (120, 5) for"),
    "shares": (GOOD | {"polygons": [[0.1, 0.2, 0.4, 0.2, 0.4, 0.9]]}, "mask", "if their numbers are shares"),
    "thin": (GOOD | {"polygons": [[3, 5, 12, 5, 7, 5.001]]}, "empty mask", "thinner than one"),
    "no polygon": (GOOD | {"polygons": []}, "annotation", "it needs a path, a list of"),
    "text as polygons": (GOOD | {"polygons": "x"}, "annotation", "has polygons 'x'"),
    "turned runs": ({"image": "a.png", "text": "x", "rle": encode_rle(MASK.T)}, "mask", "it needs 20 x 30"),
    "broken runs": ({"image": "a.png", "text": "x", "rle": {"counts": 3}}, "mask", "invalid RLE"),
    "turned mask": ({"image": "a.png", "text": "x", "mask": "masks/turned.png"}, "mask", "has 30 x 20 pixels"),
    "gray mask": ({"image": "a.png", "text": "x", "mask": "masks/seven.png"}, "mask", "holds the values 0, 7"),
    "no mask file": ({"image": "a.png", "text": "x", "mask": "data.jsonl"}, "mask", "is not an image"),
    "two masks": (GOOD | {"mask": "masks/a.png"}, "annotation", "has mask and polygons; it needs one of them"),
    "absent and drawn": (GOOD | {"absent": True}, "annotation", "has polygons and absent; it needs one of them"),
    "absent in words": ({"image": "a.png", "text": "x", "absent": "no"}, "annotation", "has absent 'no'"),
    "neither": ({"image": "a.png", "text": "x", "absent": False}, "annotation", "declares that the target is there"),
    "misspelt": ({"image": "a.png", "text": "x", "polygon": [SQUARE]}, "annotation", "did you mean 'polygons'?"),
    "masks": ({"image": "a.png", "text": "x", "masks": []}, "annotation", "did you mean 'mask'?"),
    "coco's name": ({"image": "a.png", "text": "x", "segmentation": []}, "annotation", "did you mean 'polygons'?"),
    "conversations": ({"image": "a.png", "mask": "masks/a.png", "conversations": []}, "annotation", "mean 'text'?"),
    "unequal lists": (
        {"image": "a.png", "mask": [[SQUARE]], "text": ["x", "y"]},
        "annotation",
        "has 1 masks for 2 texts",
    ),
    "same id": (GOOD | {"id": "first"}, "duplicate id", "has the id 'first' of line 1"),
    "half a size": (GOOD | {"height": 20}, "annotation", "has height 20 and width None"),
    "another size": (GOOD | {"height": 30, "width": 20}, "image size", "gives 30 x 20 (height x width)"),
    "ignore": (GOOD | {"ignore": [[1, 2]]}, "mask", "ignore: got a polygon of 2 numbers"),
    "all ignored": (GOOD | {"ignore": [SQUARE]}, "empty mask", "every pixel of the mask of 'the cat' is ignored"),
    "kind": (GOOD | {"kind": 3}, "annotation", "has kind 3"),
}


@pytest.mark.parametrize("name", LINES)
def test_bad_lines_are_named(name: str, root: Path) -> None:
    line, kind, message = LINES[name]
    first = GOOD | {"id": "first", "height": 20, "width": 30, "text": "the dog"}
    samples, (fault,) = judged(saved(root, first, line, {"image": "b.png", "text": "the end"}))
    assert (fault.file, fault.kind) == (str(root / "data.jsonl"), kind)
    assert fault.record.startswith("line 2")
    assert message in fault.message
    assert [[target.query for target in sample.targets] for sample in samples] == [["the dog"], ["the end"]]


def test_a_line_that_is_not_utf8(root: Path) -> None:
    build = saved(root, GOOD)
    content = (root / "data.jsonl").read_bytes()
    (root / "data.jsonl").write_bytes(b"\xef\xbb\xbf" + content + b'{"image": "\xe9"}\r\n')
    _, (fault,) = judged(build)
    assert (fault.record, fault.message) == ("line 2", "is not UTF-8 (byte 11); save the file as UTF-8")


def test_a_size_that_does_not_fit(root: Path) -> None:
    """It is a fault of its line alone: the other lines about the image are used, and their faults reported."""
    wrong = GOOD | {"height": 30, "width": 20}
    bad = {"image": "a.png", "text": "y", "polygons": [[1, 2]]}
    samples, faults = judged(saved(root, wrong | {"id": "x", "text": "x"}, GOOD, bad, wrong | {"text": "z"}))
    assert [(fault.record, fault.kind) for fault in faults] == [
        ("line 1 (id x)", "image size"),
        ("line 3", "mask"),
        ("line 4", "image size"),
    ]
    assert [(sample.id, len(sample.targets)) for sample in samples] == [("a.png", 1)]


def test_ids_stay_whatever_is_left_out(root: Path) -> None:
    lines = GOOD | {"id": 7, "text": "x"}, GOOD | {"id": None, "text": "y"}, GOOD | {"id": "pair", "text": ["a", "b"]}
    for bad in ([], [GOOD | {"polygons": [[1, 2]], "id": "bad", "text": "z"}]):
        (sample,) = saved(root, GOOD | {"id": None}, *bad, *lines)(bad="skip")
        ids = [target.id for target in sample.targets]
        assert ids == ["line 1", "7", f"line {3 + len(bad)}", "pair/0", "pair/1"]


def test_the_same_words_in_several_lines_are_one_query(root: Path) -> None:
    other = [20, 2, 28, 2, 28, 8, 20, 8]
    lines = GOOD | {"id": 7}, GOOD | {"text": "The  cat", "polygons": [other]}, GOOD | {"image": "b.png"}
    first, second = (data := saved(root, *lines)())
    (target,) = first.targets
    apart = [saved(root, GOOD | {"polygons": [part]})()[0].targets[0].mask for part in (SQUARE, other)]
    np.testing.assert_array_equal(target.mask, np.logical_or(*apart))
    assert (target.query, target.id, len(second.targets)) == ("the cat", "7", 1)
    assert [(note.record, note.message.split(";")[0]) for note in data.notes] == [
        ("a.png", "has 'the cat' in several lines")
    ]
    _, (fault,) = judged(saved(root, GOOD, GOOD | {"polygons": [[1, 2]]}))
    assert (fault.record, fault.message.split(":")[0]) == ("line 1", "line 2")  # a union without one of them is wrong


def test_names_as_other_systems_write_them(root: Path) -> None:
    """The slashes of Windows, é in two characters (macOS), and one picture in two spellings."""
    (root / "bilder").mkdir()
    Image.new("RGB", (30, 20)).save(root / "bilder" / unicodedata.normalize("NFC", "café.png"))
    save_png(MASK, root / "bilder" / unicodedata.normalize("NFC", "é.png"))
    lines = (
        {"image": "bilder\\" + unicodedata.normalize("NFD", "café.png"), "text": "x", "polygons": [SQUARE]},
        {"image": "a.png", "text": "x", "mask": unicodedata.normalize("NFD", "bilder\\é.png")},
        {"image": "./a.png", "text": "y", "polygons": [SQUARE]},
    )
    one, two = saved(root, *lines)()
    assert [target.query for target in two.targets] == ["x", "y"]
    np.testing.assert_array_equal(two.targets[0].mask, MASK)
    assert len(one.targets) == 1


def test_a_target_that_is_there_and_absent_is_a_fault(root: Path) -> None:
    absent = {"image": "a.png", "text": "the cat", "absent": True}
    for lines, message in (
        ((GOOD, absent), "absent, and has a mask in line 1"),
        ((absent, GOOD), "there, and is absent"),
    ):
        _, (fault,) = judged(saved(root, *lines))
        assert fault.record == "line 2"
        assert message in fault.message


def test_a_line_without_a_mask_is_a_note(root: Path) -> None:
    data = saved(
        root, GOOD, {"image": "a.png", "text": "x", "id": 3}, {"image": "a.png", "text": "y", "absent": True}
    )()
    assert [(note.record, note.message.split(";")[0]) for note in data.notes] == [
        ("line 2 (id 3)", "has no mask: read as absent")
    ]
    assert [target.present for target in data[0].targets] == [True, False, False]


def test_a_damaged_image(root: Path) -> None:
    (root / "b.png").write_bytes((root / "b.png").read_bytes()[:50])
    _, (fault,) = judged(saved(root, GOOD, GOOD | {"image": "b.png"}))
    assert (fault.record, fault.kind) == ("b.png", "image")


def test_another_kind_of_file_is_one_fault(root: Path) -> None:
    content = "".join(json.dumps(GOOD) + "\n" for _ in range(5))
    for damaged in (content.encode("utf-16"), bytes(range(256)) * 9, json.dumps(GOOD, indent=1).encode()):
        (root / "data.jsonl").write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"the whole file: none of its \d+ lines is an object .*; line 1 is not"
        ) as caught:
            jsonl_data(file=root / "data.jsonl", bad="skip")
        assert len(caught.value.faults) == 1
    samples, faults = judged(saved(root, "x", "y", GOOD, "z"))
    assert [fault.record for fault in faults] == ["line 1", "line 2", "line 4"]
    assert len(samples) == 1


def test_a_dataset_that_cannot_be_opened_is_refused_in_one_line(root: Path) -> None:
    with pytest.raises(DataError, match=r"no file '.*none\.jsonl'; file= names a JSONL"):
        jsonl_data(file=root / "none.jsonl")
    build = saved(root, GOOD)
    with pytest.raises(DataError, match=r"no folder .*none"):
        build(images=root / "none")
    with pytest.raises(DataError, match="holds no usable image; check"):
        saved(root, "")()
    (root / "data.jsonl").write_text('[{"image": "a.png"},\n 3')
    with pytest.raises(DataError, match=r"data\.jsonl: line 2: is not JSON"):
        build()
