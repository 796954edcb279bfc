"""Folders of images and masks, and every way in which they can be wrong."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from own_data import judged, write_folder
from seglens.core.types import Sample, Target
from seglens.data import load_data
from seglens.data.faults import DataError
from seglens.data.folder import folder_data
from seglens.data.masks import save_png
from seglens.data.records import Bad, Records


@pytest.fixture
def scenes() -> list[Sample]:
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 5:15, 3:12] = masks[1, 2:9, 15:29] = True
    targets = tuple(map(Target, ("the cat", "the thing that sleeps"), masks))
    return [Sample(str(number), np.full((20, 30, 3), 90 * number, np.uint8), targets) for number in range(2)]


@pytest.fixture
def root(tmp_path: Path, scenes: list[Sample]) -> Path:
    write_folder(tmp_path, scenes)
    return tmp_path


def build(root: Path) -> Callable[..., Records]:
    def read(bad: Bad = "refuse", **options: Any) -> Records:
        return folder_data(images=root / "images", masks=root / "masks", bad=bad, **options)

    return read


def test_words_are_folders(root: Path, scenes: list[Sample]) -> None:
    data = build(root)()
    assert [sample.id for sample in data] == ["0000", "0001"]
    for one, back in zip(scenes, data, strict=True):
        assert [target.query for target in back.targets] == ["the cat", "the thing that sleeps"]
        for a, b in zip(one.targets, back.targets, strict=True):
            np.testing.assert_array_equal(a.mask, b.mask)
    assert [build(root)(split=split).trainable for split in ("train", "val", "test")] == [True, False, False]


def test_folders_of_the_same_words_are_one_query(root: Path, scenes: list[Sample]) -> None:
    other = np.zeros((20, 30), bool)
    other[1:4, 20:25] = True
    save_png(other, root / "masks" / "The__Cat" / "0000.png")
    data = build(root)()
    assert [target.query.lower() for target in data[0].targets] == ["the  cat", "the thing that sleeps"]
    np.testing.assert_array_equal(data[0].targets[0].mask, scenes[0].targets[0].mask | other)
    assert [(note.record, note.message.split(";")[0]) for note in data.notes] == [
        ("image 0000", "has several masks of 'The  Cat'")
    ]


def test_an_accent_may_be_written_in_two_ways(root: Path) -> None:
    """As macOS writes it for one file and a tool for the other."""
    (root / "images" / "0000.png").rename(root / "images" / unicodedata.normalize("NFD", "é.png"))
    for folder in (root / "masks").iterdir():
        (folder / "0000.png").rename(folder / unicodedata.normalize("NFC", "é.PNG"))
    data = build(root)()
    assert (len(list(data)), data.notes) == (2, [])


def test_one_thing_in_a_flat_folder(root: Path, scenes: list[Sample]) -> None:
    text = f"folder:images={root / 'images'},masks={root / 'masks' / 'the_cat'},texts=a crack|damage in the wall"
    for one, back in zip(scenes, load_data(text), strict=True):
        assert [target.query for target in back.targets] == ["a crack", "damage in the wall"]
        for target in back.targets:
            np.testing.assert_array_equal(target.mask, one.targets[0].mask)


def test_images_in_subfolders(root: Path) -> None:
    for part in ("images", "masks/the_cat", "masks/the_thing_that_sleeps"):
        (root / part / "a").mkdir()
        for file in (root / part).glob("*.png"):
            file.rename(root / part / "a" / file.name)
    assert [sample.id for sample in build(root)()] == ["a/0000", "a/0001"]
    data = folder_data(images=root / "images", masks=root / "masks" / "the_cat", texts="a cat")
    assert [[target.query for target in sample.targets] for sample in data] == [["a cat"], ["a cat"]]


def gray(*values: int) -> Image.Image:
    return Image.fromarray(np.resize(np.array(values, np.uint8), (20, 30)))


# What the file of the cat's mask of image 0001 becomes.
MASKS: dict[str, tuple[Image.Image, str, str]] = {
    "another size": (Image.new("L", (20, 30), 255), "mask", "has 30 x 20 pixels (height x width), and its"),
    "gray": (gray(0, 128, 255), "mask", "holds the values 0, 128, 255"),
    "a label map": (gray(0, 1, 2), "mask", "holds the values 0, 1, 2"),
    "deep": (Image.fromarray(np.resize(np.array([0, 4096], np.uint16), (20, 30))), "mask", "holds the values 0, 4096"),
    "coloured": (Image.new("RGB", (30, 20), "red"), "mask", "is coloured"),
    "transparent": (Image.new("RGBA", (30, 20), (255, 255, 255, 9)), "mask", "is transparent"),
    "black": (gray(0), "empty mask", "is empty"),
}


@pytest.mark.parametrize("name", MASKS)
def test_bad_masks_are_named(name: str, root: Path) -> None:
    image, kind, message = MASKS[name]
    image.save(root / "masks" / "the_cat" / "0001.png")
    samples, (fault,) = judged(build(root))
    assert (fault.file, fault.record, fault.kind) == (str(root / "masks"), "mask the_cat/0001", kind)
    assert message in fault.message
    assert [len(sample.targets) for sample in samples] == [2, 1]


@pytest.mark.parametrize("name", ["0 and 1", "palette", "deep", "1 bit"])
def test_masks_of_two_values(name: str, root: Path, scenes: list[Sample]) -> None:
    mask = scenes[1].targets[0].mask
    image = Image.fromarray(mask if name == "1 bit" else mask.astype(np.uint16 if name == "deep" else np.uint8))
    if name == "palette":
        image = Image.frombytes("P", (30, 20), mask.astype(np.uint8).tobytes())
        image.putpalette([0, 0, 0, 128, 0, 0])
    image.save(root / "masks" / "the_cat" / "0001.png")
    np.testing.assert_array_equal(list(build(root)())[1].targets[0].mask, mask)


def test_black_may_say_that_it_is_absent(root: Path) -> None:
    save_png(np.zeros((20, 30), bool), root / "masks" / "the_cat" / "0001.png")
    _, sample = build(root)(black="absent")
    assert [target.present for target in sample.targets] == [False, True]


def test_files_out_of_place_are_named(root: Path) -> None:
    mask = np.ones((20, 30), bool)
    save_png(mask, root / "masks" / "0001.png")
    save_png(mask, root / "masks" / "the_cat" / "lost.png")
    save_png(mask, root / "masks" / "_" / "0001.png")
    save_png(mask, root / "masks" / "the_cat" / "._0001.png")
    Image.fromarray(mask).convert("L").save(root / "masks" / "the_cat" / "jpeg.jpg")
    Image.new("RGB", (30, 20)).save(root / "images" / "0000.jpg")
    Image.new("RGB", (30, 20)).save(root / "images" / "cut.png")
    (root / "images" / "cut.png").write_bytes((root / "images" / "cut.png").read_bytes()[:50])
    save_png(mask, root / "masks" / "the_cat" / "cut.png")
    (root / "images" / "Thumbs.db").write_bytes(b"")
    samples, faults = judged(build(root))
    messages = {fault.record: fault.message for fault in faults}
    for record, message in {
        "0001.png": "lies in no folder named by its words",
        "the_cat/lost.png": "there is no image 'lost' for it",
        "_/0001.png": "no words to ask for",
        "the_cat/jpeg.jpg": "a .jpg file, which may not keep two values",
        "0000": "0000.jpg and 0000.png have the same stem",
        "cut": "cut short or damaged",
    }.items():
        assert message in messages.pop(record)
    assert not messages
    assert [sample.id for sample in samples] == ["0001"]


def test_an_image_without_mask_is_a_note(root: Path) -> None:
    Image.new("RGB", (30, 20)).save(root / "images" / "new.webp")
    (note,) = build(root)().notes
    assert (note.record, note.message) == ("new.webp", "the image has no mask")


def test_a_flat_folder_with_folders_inside(root: Path) -> None:
    with pytest.raises(DataError, match=r"the_cat/0000\.png: there is no image .* lie in no folder of words"):
        build(root)(texts="a cat")


def test_a_dataset_that_cannot_be_opened_is_refused_in_one_line(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*none.*images= names"):
        folder_data(images=tmp_path / "none", masks=root / "masks")
    with pytest.raises(DataError, match=r"no folder .*none.*masks= names"):
        folder_data(images=root / "images", masks=tmp_path / "none")
    with pytest.raises(DataError, match="it needs words"):
        build(root)(texts=" | ")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no usable image"):
        folder_data(images=tmp_path / "empty", masks=tmp_path / "empty")
