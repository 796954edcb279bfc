"""Pascal Context and VOC in every layout that people have; what a value means is written down from their lists."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from lisa_files import SIZE, label_map, photograph, stripes, write_pascal

from seglens.data import load_data
from seglens.data.dataset import classes_of
from seglens.data.faults import DataError
from seglens.data.records import Records

CONTEXT, VOC = "VOCdevkit/VOC2010", "VOCdevkit/VOC2012"
# of labels.txt (from 1), and its place among the 59 (from 1)
NUMBERS = {"aeroplane": (2, 1), "building": (44, 11), "person": (284, 37), "table": (397, 50), "wood": (458, 59)}


def load(spec: str) -> Records:
    data = load_data(spec)
    assert isinstance(data, Records)
    return data


def words(spec: str) -> list[list[str]]:
    return [[target.query for target in sample.targets] for sample in load(spec)]


def mat(path: Path, pixels: np.ndarray) -> None:
    io = pytest.importorskip("scipy.io", reason="Pascal Context's own files need scipy")
    path.parent.mkdir(parents=True, exist_ok=True)
    io.savemat(path, {"LabelMap": pixels.astype(np.uint16)}, do_compression=True)


def test_context_of_mmsegmentation(tmp_path: Path) -> None:
    """0 is none of the 59; the list names the maps of the split."""
    folder, listed = "SegmentationClassContext", "ImageSets/SegmentationContext/val.txt"
    places = [place for _, place in NUMBERS.values()]
    write_pascal(tmp_path, 2010, folder, listed, **{"2008_000002": stripes(*places), "2008_000003": stripes(0, 1)})
    label_map(tmp_path / CONTEXT / folder / "2008_000009.png", stripes(5))  # of train
    data = load(f"pc59:root={tmp_path}")
    assert [[t.query for t in s.targets] for s in data] == [list(NUMBERS), ["aeroplane"]]
    assert len(classes_of(data)) == 59
    second = data[1].targets[0]
    assert second.ignore is not None
    np.testing.assert_array_equal(second.mask, stripes(0, 1) == 1)
    np.testing.assert_array_equal(second.ignore, stripes(0, 1) == 0)
    assert not data.trainable


@pytest.mark.parametrize(
    "at",
    [
        f"{CONTEXT}/JPEGImages {CONTEXT}/annotations_detectron2/pc59_val",
        "pascal_ctx_d2/images/validation pascal_ctx_d2/annotations_ctx59/validation",
    ],
)
def test_context_of_detectron2(tmp_path: Path, at: str) -> None:
    """Classes from 0, and 255 for what is none of them."""
    images, labels = at.split()
    photograph(tmp_path / images / "one.jpg")
    photograph(tmp_path / images / "of_another_split.jpg")
    label_map(tmp_path / labels / "one.png", stripes(*(place - 1 for _, place in NUMBERS.values()), 255))
    assert words(f"pc59:root={tmp_path}") == [list(NUMBERS)]


@pytest.mark.parametrize(
    "at",
    [
        f"{CONTEXT}/JPEGImages {CONTEXT}/annotations_detectron2/pc459_val",
        "pascal_ctx_d2/images/validation pascal_ctx_d2/annotations_ctx459/validation",
    ],
)
def test_all_of_context_of_detectron2(tmp_path: Path, at: str) -> None:
    """TIFFs of 16 bits, classes from 0, 65535 ignored."""
    images, labels = at.split()
    photograph(tmp_path / images / "one.jpg")
    label_map(tmp_path / labels / "one.tif", stripes(*(n - 1 for n, _ in NUMBERS.values()), 65535), "I;16")
    data = load(f"pc459:root={tmp_path}")
    assert [target.query for target in data[0].targets] == list(NUMBERS)
    assert len(classes_of(data)) == 459
    assert data[0].targets[0].ignore is not None


def test_context_as_published(tmp_path: Path) -> None:
    """One .mat for both: 1 is an accordion, which is none of the 59; the split is that of VOC2010."""
    for stem in ("one", "two"):
        photograph(tmp_path / CONTEXT / f"JPEGImages/{stem}.jpg")
        mat(tmp_path / CONTEXT / f"trainval/{stem}.mat", stripes(*(n for n, _ in NUMBERS.values()), 1))
    main = tmp_path / CONTEXT / "ImageSets/Main/val.txt"
    main.parent.mkdir(parents=True)
    main.write_text("two\n")
    assert words(f"pc59:root={tmp_path}") == [list(NUMBERS)]
    assert words(f"pc459:root={tmp_path}") == [["accordion", *NUMBERS]]
    assert [sample.id for sample in load(f"pc59:root={tmp_path}")] == ["two"]
    (tmp_path / CONTEXT / "trainval/two.mat").write_bytes(b"no matlab")
    with pytest.raises(DataError, match=r"two.mat is no label map of Pascal Context"):
        list(load(f"pc459:root={tmp_path}"))


def test_voc_as_published(tmp_path: Path) -> None:
    """Palette maps: 0 is the background, 255 the border of things."""
    maps = {"2007_000033": stripes(0, 1, 15, 20, 255), "2007_000042": stripes(11)}
    write_pascal(tmp_path, 2012, "SegmentationClass", "ImageSets/Segmentation/val.txt", mode="P", **maps)
    data = load(f"pas20:root={tmp_path}")
    assert [[t.query for t in s.targets] for s in data] == [["aeroplane", "person", "tv monitor"], ["dining table"]]
    assert len(classes_of(data)) == 20
    ignore = data[0].targets[0].ignore
    assert ignore is not None
    np.testing.assert_array_equal(ignore, np.isin(maps["2007_000033"], (0, 255)))


def test_voc_of_detectron2(tmp_path: Path) -> None:
    photograph(tmp_path / "pascal_voc_d2/images/training/one.jpg")
    label_map(tmp_path / "pascal_voc_d2/annotations_pascal20/training/one.png", stripes(0, 14, 19, 255))
    assert words(f"pas20:root={tmp_path},split=train") == [["aeroplane", "person", "tv monitor"]]
    assert load(f"pas20:root={tmp_path},split=train").trainable


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for name in ("pc59", "pc459", "pas20"):
        with pytest.raises(ValueError, match=rf"{name} finds none of .*; give root="):
            load(f"{name}:root={tmp_path}")
    listed = "ImageSets/Segmentation/val.txt"
    write_pascal(tmp_path, 2012, "SegmentationClass", listed, one=stripes(1), two=stripes(21))
    with pytest.raises(DataError, match=r"two.png holds the label 21, which the class list does not have"):
        list(load(f"pas20:root={tmp_path}"))
    (tmp_path / VOC / "SegmentationClass/two.png").unlink()
    with pytest.raises(ValueError, match=r"its label map .*two.png is missing"):
        load(f"pas20:root={tmp_path}")
    (tmp_path / VOC / listed).unlink()
    with pytest.raises(ValueError, match=r"not VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt, which names"):
        load(f"pas20:root={tmp_path}")
    shutil.rmtree(tmp_path / VOC)
    photograph(tmp_path / "picture.jpg", SIZE)
