"""YOLO labels, and every way in which they can be wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from own_data import judged, write_yolo
from seglens.core.types import Sample, Target
from seglens.data import load_data
from seglens.data.faults import DataError
from seglens.data.masks import Polygons
from seglens.data.records import Bad, Records
from seglens.data.yolo import Shares, yolo_data


@pytest.fixture
def scenes() -> list[Sample]:
    """Two images of 40 x 60: a cat of two squares and a dog."""
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 5:15, 3:12] = masks[0, 5:15, 23:32] = masks[1, 20:30, 40:52] = True
    targets = tuple(map(Target, ("cat", "dog"), masks))
    return [Sample(str(number), np.full((40, 60, 3), 90 * number, np.uint8), targets) for number in range(2)]


@pytest.fixture
def root(tmp_path: Path, scenes: list[Sample]) -> Path:
    write_yolo(tmp_path, scenes)
    return tmp_path


def build(root: Path) -> Callable[..., Records]:
    def read(bad: Bad = "refuse", **options: Any) -> Records:
        return yolo_data(data=root / "data.yaml", bad=bad, **options)

    return read


def same(data: Records, scenes: list[Sample]) -> bool:
    pairs = [
        (a, b) for one, back in zip(scenes, data, strict=True) for a, b in zip(one.targets, back.targets, strict=True)
    ]
    return all(a.query == b.query and np.array_equal(a.mask, b.mask) and b.kind == "class" for a, b in pairs)


def test_a_slanted_polygon_scales_with_the_image(tmp_path: Path) -> None:
    """The polygon of the documentation's own example, on two sizes: as COCO draws it in pixels."""
    shares = np.array([0.2, 0.1, 0.9, 0.5, 0.4, 0.8])
    for height, width in ((100, 200), (37, 53)):
        pixels = (shares.reshape(-1, 2) * (width, height)).ravel().tolist()
        drawn = Shares((shares.reshape(-1, 2),)).draw((height, width)).mask
        np.testing.assert_array_equal(drawn, Polygons([pixels]).draw((height, width)).mask)
        area = 0.5 * abs((0.9 - 0.2) * (0.8 - 0.1) - (0.4 - 0.2) * (0.5 - 0.1))
        assert drawn.mean() == pytest.approx(area, abs=0.01)  # measured 0.003


NAMES = {
    "dict": "names:\n  0: cat\n  1: dog\n",
    "list": "names: [cat, dog]\nnc: 2\n",
    "gaps": "names: {0: cat, 1: dog, 7: fox}\n",
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("place", ["images/train", "[images/train]", "./images/train", "../images/train", "list.txt"])
def test_forms_of_the_yaml(names: str, place: str, root: Path, scenes: list[Sample]) -> None:
    (root / "list.txt").write_text("images/train/0000.png\n\n./images/train/0001.png\n")
    (root / "data.yaml").write_text(f"path: .\ntrain: {place}\n{NAMES[names]}")
    assert same(build(root)(), scenes)


def test_splits(root: Path, scenes: list[Sample]) -> None:
    (root / "data.yaml").write_text(f"path: {root}\ntrain: images/train\nval: images/val\n{NAMES['list']}")
    for part in ("images", "labels"):
        shutil.copytree(root / part / "train", root / part / "val")
    (root / "images" / "val" / "0001.png").unlink()
    (root / "labels" / "val" / "0001.txt").unlink()
    assert (len(build(root)()), build(root)().trainable) == (2, True)
    assert (len(build(root)(split="val")), build(root)(split="val").trainable) == (1, False)
    with pytest.raises(DataError, match="has no 'test' entry"):
        build(root)(split="test")


def test_plain_folders(root: Path, scenes: list[Sample], tmp_path: Path) -> None:
    names = root / "labels" / "train" / "classes.txt"
    names.write_text("cat\ndog\n")
    text = f"yolo:images={root / 'images' / 'train'},names={names}"
    assert same(load_data(text), scenes)  # type: ignore[arg-type]
    shutil.move(root / "labels" / "train", root / "elsewhere")
    assert same(load_data(f"{text.rpartition(',')[0]},labels={root / 'elsewhere'},names={root / 'data.yaml'}"), scenes)  # type: ignore[arg-type]
    unusable_faults = tmp_path / "flat"
    shutil.copytree(root / "images" / "train", unusable_faults)
    shutil.copytree(root / "elsewhere", unusable_faults, dirs_exist_ok=True)
    assert same(load_data(f"yolo:images={unusable_faults},names={unusable_faults / 'classes.txt'}"), scenes)  # type: ignore[arg-type]


SQUARE = "0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"
LINES = {
    "two points": ("0 0.1 0.1 0.5 0.5", "holds a box, not a polygon"),
    "five numbers": ("0 0.1 0.1 0.5 0.5 0.9", "holds a box with a confidence"),
    "confidence": (f"0 {SQUARE} 0.87", "an odd number; if the last one is a confidence, write the labels without"),
    "half a class": (f"0.5 {SQUARE}", "begins with 0.5; a line needs a class number, which is a whole number"),
    "no class": (f"nan {SQUARE}", "begins with nan"),
    "a box": ("0 0.5 0.5 0.2 0.2", "holds a box, not a polygon"),
    "class without name": (f"5 {SQUARE}", "is of class 5, which has no name; the names are those of 0 to 1"),
    "negative class": (f"-1 {SQUARE}", "is of class -1"),
    "class in words": (f"cat {SQUARE}", "a line needs a class number"),
    "commas": ("0,0.1,0.1,0.5,0.1,0.5,0.5", "a line needs a class number"),
    "only a class": ("0", "holds 0 coordinates"),
    "pixels": ("0 10 10 50 10 50 50", "holds the coordinate 50; shares"),
    "negative": (f"0 {SQUARE} -0.2 0.5", "holds the coordinate -0.2"),
    "NaN": (f"0 {SQUARE} nan 0.5", "not a number"),
    "infinite": (f"0 {SQUARE} 0.5 inf", "not a number"),
}


@pytest.mark.parametrize("name", LINES)
def test_bad_lines_are_named(name: str, root: Path) -> None:
    line, message = LINES[name]
    label = root / "labels" / "train" / "0001.txt"
    label.write_text(f"\n{label.read_text()}{line}\n")
    number = len(label.read_text().splitlines())
    samples, (fault,) = judged(build(root))
    assert (fault.file, fault.record) == (str(label), f"line {number}")
    assert message in fault.message
    assert [Path(sample.id).name for sample in samples] == ["0000.png"]


def test_a_class_number_may_be_written_as_a_decimal(root: Path, scenes: list[Sample]) -> None:
    """As tools that write tables of numbers do (`numpy.savetxt`)."""
    for label in (root / "labels" / "train").glob("*.txt"):
        lines = label.read_text().splitlines()
        label.write_text("".join(f"{float(line[0]):.18e}{line[1:]}\n" for line in lines))
    assert same(build(root)(), scenes)


def test_classes_of_one_name_are_one_class(root: Path) -> None:
    (root / "data.yaml").write_text("train: images/train\nnames: [cat, CAT , dog]\n")
    (root / "labels" / "train" / "0000.txt").write_text(f"1 {SQUARE}\n0 0.6 0.6 0.9 0.6 0.9 0.9\n2 {SQUARE}\n")
    data = build(root)()
    assert [target.query for target in data[0].targets] == ["cat", "dog"]
    parts = [
        Shares((np.array(c).reshape(-1, 2),))
        for c in ([0.1, 0.1, 0.5, 0.1, 0.5, 0.5, 0.1, 0.5], [0.6, 0.6, 0.9, 0.6, 0.9, 0.9])
    ]
    np.testing.assert_array_equal(data[0].targets[0].mask, np.logical_or(*(one.draw((40, 60)).mask for one in parts)))
    assert [(note.record, note.message) for note in data.notes] == [
        ("class 1", "has the name of class 0, 'cat'; the two are one class")
    ]


def test_labels_of_poses_are_refused(root: Path) -> None:
    (root / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\nkpt_shape: [2, 2]\n")
    with pytest.raises(DataError, match="its labels are points of poses"):
        build(root)()


def test_rounding_beyond_the_border_is_no_fault(root: Path) -> None:
    label = root / "labels" / "train" / "0001.txt"
    label.write_text("0 -0.001 0.1 1.004 0.1 1.004 0.5 -0.001 0.5\n")
    _, sample = build(root)()
    assert sample.targets[0].mask[4:20].all()


def test_other_damage_is_named(root: Path) -> None:
    labels, images = root / "labels" / "train", root / "images" / "train"
    (labels / "0001.txt").write_bytes(b"0 0.1 \xff\xfe")
    (labels / "ghost.txt").write_text(f"0 {SQUARE}\n")
    (labels / "thin.txt").write_text("0 0.1 0.1 0.5 0.1 0.3 0.10001\n")
    (labels / "cut.txt").write_text(f"0 {SQUARE}\n")
    (images / "cut.png").write_bytes((images / "0000.png").read_bytes()[:50])
    Image.new("RGB", (60, 40)).save(images / "thin.png")
    Image.new("RGB", (60, 40)).save(images / "0000.jpg")
    Image.new("RGB", (60, 40)).save(images / "good.png")
    (labels / "good.txt").write_text(f"0 {SQUARE}\n")
    samples, faults = judged(build(root))
    faults_by_file = {(Path(fault.file).name, Path(fault.record).name): (fault.kind, fault.message) for fault in faults}
    assert {key: kind for key, (kind, _) in faults_by_file.items()} == {
        ("train", "0000"): "duplicate id",
        ("0001.txt", "0001.png"): "annotation",
        ("ghost.txt", "ghost"): "image",
        ("thin.txt", "thin.png, cat"): "empty mask",
        ("cut.txt", "cut.png"): "image",
    }
    assert "not UTF-8 (byte 6)" in faults_by_file["0001.txt", "0001.png"][1]
    assert [Path(sample.id).name for sample in samples] == ["good.png"]


def test_images_without_labels_are_notes(root: Path) -> None:
    (root / "labels" / "train" / "0001.txt").write_text("\n")
    Image.new("RGB", (60, 40)).save(root / "images" / "train" / "new.png")
    data = build(root)()
    assert len(data) == 1
    assert [(Path(one.file).name, one.message) for one in data.notes] == [
        ("0001.txt", "the image has no object"),
        ("new.txt", "the image has no label file"),
    ]


def test_a_listed_image_that_is_lost(root: Path) -> None:
    (root / "list.txt").write_text("images/train/0000.png\nimages/train/lost.png\n")
    (root / "data.yaml").write_text(f"train: list.txt\n{NAMES['list']}")
    _, (fault,) = judged(build(root))
    assert (Path(fault.file).name, fault.record, fault.kind) == ("list.txt", "line 2", "image")


YAMLS = {
    "no names": ("train: images/train\n", "has no names"),
    "names in words": ("train: images/train\nnames: cat\n", "has no names"),
    "yes is true": ("train: images/train\nnames: [yes, no]\n", "names class 0 True; it needs a number and words"),
    "wrong count": ("train: images/train\nnames: [cat]\nnc: 3\n", "has nc: 3 and names of 1 classes"),
    "no yaml": ("train: [images\n", "is not YAML"),
    "a list": ("- train\n", "holds no keys"),
    "lost folder": ("train: images/lost\nnames: [cat]\n", "no folder .*images/lost.*count from the file itself"),
    "code": ("train: !!python/object/apply:os.getcwd []\n", "is not YAML"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_bad_yaml_is_refused(name: str, root: Path) -> None:
    content, message = YAMLS[name]
    (root / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        build(root)(bad="skip")
    assert "\n" not in str(caught.value)


def test_options_that_do_not_fit(root: Path) -> None:
    for options in ({}, {"images": root}, {"data": root / "data.yaml", "images": root}):
        with pytest.raises(DataError, match=r"needs data=data\.yaml, or images=FOLDER with names=FILE"):
            yolo_data(**options)
    with pytest.raises(DataError, match="cannot be read"):
        yolo_data(data=root / "none.yaml")
    with pytest.raises(DataError, match="labels= names it"):
        yolo_data(images=root / "images" / "train", labels=root / "none", names=root / "data.yaml")
