"""`seglens data check` and `seglens data show`: what they print, write and exit with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command import Run
from own_data import write_coco, write_folder
from seglens.core.types import Sample, Target
from shared import shared


@pytest.fixture
def scenes() -> list[Sample]:
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:15, 3:12] = masks[1, 20:30, 30:50] = True
    targets = tuple(map(Target, ("the cat", "the dog"), masks))
    return [Sample(str(number), np.full((40, 60, 3), 50 * number, np.uint8), targets) for number in range(3)]


@pytest.fixture
def spec(tmp_path: Path, scenes: list[Sample]) -> str:
    return write_folder(tmp_path / "data", scenes)


def damage(root: Path) -> None:
    Image.new("L", (60, 40)).save(root / "data" / "masks" / "the_cat" / "0001.png")
    Image.new("L", (60, 40), 9).save(root / "data" / "masks" / "the_dog" / "0001.png")
    (root / "data" / "images" / "0002.png").write_bytes(b"")
    Image.new("RGB", (60, 40)).save(root / "data" / "images" / "new.png")


def test_good_data(seglens: Run, spec: str, tmp_path: Path) -> None:
    code, out, err = seglens("data", "check", spec)
    assert (code, out.splitlines()[:2], err) == (
        0,
        ["3 usable images, 6 queries (0 of them absent)", "0 faults, 0 notes"],
        "",
    )
    assert out.splitlines()[2].startswith("no target is absent: `seglens train` adds queries for classes")
    one = f"folder:images={tmp_path}/data/images,masks={tmp_path}/data/masks/the_cat,texts=a crack"
    _, out, _ = seglens("data", "check", one)
    assert out.splitlines()[2].startswith("no target is absent, and there is no list of classes")


def test_bad_data(seglens: Run, spec: str, tmp_path: Path) -> None:
    damage(tmp_path)
    for bad in ("", ",bad=refuse", ",bad=skip"):
        code, out, err = seglens("data", "check", spec + bad)
        assert (code, err) == (1, "")
        *lines, usable, counted, _ = out.splitlines()
        assert usable == "1 usable images, 2 queries (0 of them absent)"
        assert counted == "3 faults (empty mask 1, image 1, mask 1), 1 notes"
        assert len(lines) == 4
        for start, record in (("note", "new.png"), ("fault", "mask the_cat/0001"), ("fault", "mask the_dog/0001")):
            assert sum(line.startswith(f"{start}: ") and f": {record}: " in line for line in lines) == 1
    code, out, _ = seglens("data", "check", spec, "--limit", 1)
    assert (code, out.splitlines()[:-1]) == (
        0,
        [lines[0], "1 usable images, 2 queries (0 of them absent)", "0 faults, 1 notes"],
    )


def test_a_limit_in_the_data_and_one_of_the_command(seglens: Run, spec: str) -> None:
    for options in ([f"{spec},limit=2"], [f"{spec},limit=3", "--limit", 2], [f"{spec},limit=2", "--limit", 3]):
        assert seglens("data", "check", *options)[1].startswith("2 usable images, 4 queries")
    code, out, err = seglens("data", "check", f"{spec},prompt=lens,limit=2")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "prompt=, which changes no record; check it without" in err


def test_json(seglens: Run, spec: str, tmp_path: Path) -> None:
    damage(tmp_path)
    code, out, err = seglens("data", "check", spec, "--json", "--duplicates")
    report = json.loads(out)
    assert (code, err) == (1, "")
    assert {key: report[key] for key in ("data", "images", "queries", "absent")} == {
        "data": spec,
        "images": 1,
        "queries": 2,
        "absent": 0,
    }
    assert report["faults_by_kind"] == {"empty mask": 1, "mask": 1, "image": 1}
    assert {fault["record"]: fault["kind"] for fault in report["faults"]} == {
        "mask the_cat/0001": "empty mask",
        "mask the_dog/0001": "mask",
        "0002": "image",
    }
    assert all(set(fault) == {"file", "record", "says", "kind"} for fault in report["faults"])
    assert [note["record"] for note in report["notes"]] == ["new.png"]


def test_duplicates(seglens: Run, spec: str, tmp_path: Path) -> None:
    images = tmp_path / "data" / "images"
    (images / "0002.png").write_bytes((images / "0000.png").read_bytes())
    assert seglens("data", "check", spec)[0] == 0
    code, out, _ = seglens("data", "check", spec, "--duplicates")
    assert (code, "1 faults (duplicate image 1)" in out) == (1, True)


def test_nothing_but_bad_records(seglens: Run, tmp_path: Path, scenes: list[Sample]) -> None:
    spec = write_coco(tmp_path, scenes)
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    code, out, err = seglens("data", "check", spec)
    assert (code, err, out.count("fault: ")) == (1, "", 3)
    assert out.endswith("0 usable images, 0 queries (0 of them absent)\n3 faults (image 3), 0 notes\n")
    code, out, err = seglens("data", "show", spec, "--out", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "3 bad records" in err


def test_data_without_a_usable_record_is_reported_with_the_reasons(seglens: Run, tmp_path: Path) -> None:
    """No record is bad, and nothing can be used: the notes say why, and other commands quote them."""
    for folder in ("im", "y/images", "y/labels", "f/images", "f/masks/cat"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("im", "y/images", "f/images"):
        Image.new("RGB", (4, 4), "white").save(tmp_path / folder / "a.png")
    crowd = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 1,
        "segmentation": {"size": [4, 4], "counts": [4, 4, 8]},
    }
    images = [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}]
    index = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": [crowd]}
    (tmp_path / "cvat.json").write_text(json.dumps(index))
    (tmp_path / "y" / "data.yaml").write_text("train: images\nnames: [cat]\n")
    says = {
        f"coco:images={tmp_path / 'im'},annotations={tmp_path / 'cvat.json'}": "used with crowd=include",
        f"yolo:data={tmp_path / 'y' / 'data.yaml'}": "the image has no label file",
        f"folder:images={tmp_path / 'f' / 'images'},masks={tmp_path / 'f' / 'masks'}": "the image has no mask",
    }
    for spec, why in says.items():
        code, out, err = seglens("data", "check", spec)
        assert (code, err, out.count("note: ")) == (1, "", 1)
        assert why in out
        assert out.endswith("0 usable images, 0 queries (0 of them absent)\n0 faults, 1 notes\n")
        code, _, err = seglens("data", "show", spec)
        assert code == 2
        assert why in err
        assert "data check" not in err


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("folder:images=/none,masks=/none", "there is no folder '/none'"),
        ("folder:images=/none", "folder needs masks=..."),
        ("folders:x=1", "did you mean 'folder'?"),
        ("coco:images=/,annotations=/none.json", "cannot be read"),
        ("world:n=2", "not read from annotation files"),
        ("lisa:root=/none", "lisa is a mixture for training; check its datasets one by one"),
        ("coco:images=,annotations=x", "'coco:images=,annotations=x': images= is empty; write a path"),
        ("jsonl", "dataset 'jsonl': jsonl needs file=...; its options: file, "),
    ],
)
def test_what_cannot_be_opened(seglens: Run, spec: str, says: str) -> None:
    code, out, err = seglens("data", "check", spec)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_show(seglens: Run, spec: str, tmp_path: Path) -> None:
    out_folder = tmp_path / "out"
    code, out, err = seglens("data", "show", spec, "--n", 2, "--out", out_folder)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{out_folder / name}: the cat; the dog" for name in ("000000_0000.png", "000002_0002.png")
    ]
    assert sorted(path.name for path in out_folder.iterdir()) == ["000000_0000.png", "000002_0002.png"]
    with Image.open(out_folder / "000000_0000.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
    damage(tmp_path)
    code, out, err = seglens("data", "show", spec, "--n", 9, "--out", out_folder)
    assert (code, out.count("\n"), err.count("left out: ")) == (0, 1, 3), err
    assert seglens("data", "show", "world:n=2,queries=1", "--n", 1, "--out", out_folder)[0] == 0


def test_real_photographs(seglens: Run) -> None:
    file = shared("coco/annotations/instances_train2017.json")
    code, out, err = seglens("data", "check", f"coco:images={shared('coco/train2017')},annotations={file}")
    assert (code, err) == (0, "")
    assert out.splitlines()[:-1] == ["57 usable images, 232 queries (0 of them absent)", "0 faults, 0 notes"]
