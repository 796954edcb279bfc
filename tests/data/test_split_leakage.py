"""Which training images are tested on, and training without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from make_refer import ref, refs, save, sentence

from command import Run
from seglens.data import load_data
from seglens.data.faults import RecordFault
from seglens.data.image_record import ImageRecord
from seglens.data.records import Records
from seglens.data.split_leakage import Part, image_key, load_keys, part, report, save_keys, to_hold_out, without
from shared import shared


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """RefCOCO trains on 101; RefCOCOg tests on 101 and trains on 102, which RefCOCO tests on."""
    save(tmp_path)
    other = [ref(1, 101, 1, "test", sentence(1, "a box")), ref(2, 102, 3, "train", sentence(2, "a block"))]
    return save(tmp_path, "refcocog", "refs(umd).p", other)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("train2014/COCO_train2014_000000495169.jpg", "coco/495169"),
        ("val2014/COCO_val2014_000000495169.jpg", "coco/495169"),
        ("train2017/000000495169.jpg", "coco/495169"),
        ("saiapr_tc-12/00/images/25.jpg", "images/25.jpg"),
        ("ade20k/images/training/ADE_train_00000001.jpg", "training/ADE_train_00000001.jpg"),
    ],
)
def test_one_name_for_one_photograph(path: str, key: str) -> None:
    assert image_key(Path(path)) == key


def test_report() -> None:
    parts = [
        Part("a train", True, frozenset("123")),
        Part("a val", False, frozenset("4")),
        Part("b train", True, frozenset("45")),
        Part("b test", False, frozenset("236")),
    ]
    overlap = report(parts)
    assert overlap["parts"][0] == {"name": "a train", "trainable": True, "images": 3}
    assert overlap["overlaps"] == [
        {"train": "a train", "held_out": "b test", "images": 2, "of_train": 3},
        {"train": "b train", "held_out": "a val", "images": 1, "of_train": 2},
    ]
    assert overlap["to_hold_out"] == 4
    assert to_hold_out(parts) == ["2", "3", "4", "6"]
    assert to_hold_out([]) == []


def test_any_records_can_be_filtered(family: Path) -> None:
    data = load_data(f"refcoco:root={family},split=train")
    assert isinstance(data, Records)
    fault = RecordFault("f", "r", "bad")
    assert part("x", [*data.entries, fault], True).images == {"coco/101"}
    assert list(without([*data.entries, fault], {"coco/101"})) == [fault]
    assert all(isinstance(one, ImageRecord) for one in without(data.entries, {"coco/102"}))


def test_the_command(family: Path, seglens: Run) -> None:
    code, out, _ = seglens("data", "overlap", "--root", family)
    assert code == 0
    assert "refcoco(unc) train: 1 of 1 images are in refcocog(umd) test" in out
    assert "refcocog(umd) train: 1 of 1 images are in refcoco(unc) val" in out
    held = family / "held.txt"
    _, out, _ = seglens("data", "overlap", "--root", family, "--json", "--out", held)
    assert json.loads(out)["to_hold_out"] == len(load_keys(held)) == 3
    assert load_keys(held) == {"coco/101", "coco/102", "coco/103"}
    code, out, err = seglens("data", "overlap", "--root", family / "images")
    assert (code, out) == (2, "")
    assert "holds none of refcoco" in err


def test_training_leaves_out_images_of_test_sets(family: Path) -> None:
    save_keys(family / "held.txt", ["coco/101"])
    with pytest.raises(ValueError, match="no usable image"):
        load_data(f"refcoco:root={family},split=train,exclude={family / 'held.txt'}")
    both = [*refs(), ref(12, 102, 3, "train", sentence(120, "another"))]
    save(family, records=both)
    (sample,) = load_data(f"refcoco:root={family},split=train,exclude={family / 'held.txt'}")
    assert sample.id == "refcoco-train-102"


@pytest.mark.parametrize("raw", [b"", b"\n \n", b"101\n", b"\xff\xfe", None])
def test_a_list_that_is_none(tmp_path: Path, raw: Any) -> None:
    path = tmp_path / "held.txt"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"held\.txt"):
        load_keys(path)


def test_the_published_files(seglens: Run) -> None:
    overlap = json.loads(seglens("data", "overlap", "--root", shared("refcoco"), "--json")[1])
    assert overlap["to_hold_out"] == 2  # the sample has no image in two splits of different kinds
    assert overlap["overlaps"] == []
    assert {one["name"] for one in overlap["parts"]} >= {"refcoco(unc) testA", "refcocog(umd) val"}
