"""Label maps give a query per class present, and damaged ones are refused by file and value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lisa_files import SIZE, label_map, photograph, stripes, write_ade20k, write_cocostuff, write_mapillary
from PIL import Image

from seglens.data import load_data
from seglens.data.faults import DataError
from seglens.data.image_decoding import ImageError
from seglens.data.images import load_labels
from seglens.data.records import Records
from seglens.data.semantic import LISTS, ade20k, cocostuff, mapillary, mapillary_classes
from shared import shared


def masks_of(records: Records, index: int = 0) -> dict[str, np.ndarray]:
    return {target.query: target.mask for target in records[index].targets}


# ---------------------------------------------------------------- label values


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_values_are_read_as_they_are_stored(tmp_path: Path, mode: str) -> None:
    pixels = stripes(0, 1, 17, 149, 255) if mode != "I;16" else stripes(0, 1, 300, 65535)
    read = load_labels(label_map(tmp_path / "map.png", pixels, mode))
    np.testing.assert_array_equal(read, pixels)
    if mode == "P":
        with Image.open(tmp_path / "map.png") as image:
            assert not (np.array(image.convert("L")) == pixels).any()  # its colours say something else


@pytest.mark.parametrize(("bits", "raw"), [(1, "1"), (2, "L;2"), (4, "L;4")])
def test_gray_of_few_bits_is_not_stretched(tmp_path: Path, bits: int, raw: str) -> None:
    import struct
    import zlib

    top = 2**bits - 1
    row = bytes([0, *[0b00011011 if bits == 2 else 0x0F if bits == 4 else 0b01010101]])
    header = struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path = tmp_path / "few.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    expected = {1: [0, 1] * 4, 2: [0, 1, 2, 3], 4: [0, 15]}[bits]
    assert max(expected) == top
    with Image.open(path) as image:
        assert image.tile[0][3] == raw
    np.testing.assert_array_equal(load_labels(path), [expected])


def test_an_image_that_is_no_label_map_is_refused(tmp_path: Path) -> None:
    photograph(tmp_path / "colours.png")
    with pytest.raises(ImageError, match="mode RGB; a label map is a PNG or TIFF of one channel"):
        load_labels(tmp_path / "colours.png")
    photograph(tmp_path / "photo.jpg").rename(tmp_path / "photo.png")
    with pytest.raises(ImageError, match="a label map is a PNG"):
        load_labels(tmp_path / "photo.png")
    whole = label_map(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 99, (40, 40))).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="cut short or damaged"):
        load_labels(tmp_path / "cut.png")
    with pytest.raises(ImageError, match="does not exist"):
        load_labels(tmp_path / "absent.png")


# ---------------------------------------------------------------- the three datasets


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_ade20k(tmp_path: Path, mode: str) -> None:
    write_ade20k(tmp_path, mode=mode, b=stripes(0, 13, 150), a=stripes(1, 255))
    records = ade20k(tmp_path)
    assert [entry.id for entry in records.entries] == ["a", "b"]
    assert records.trainable
    assert len(records.classes) == 150
    masks = masks_of(records, 1)
    assert list(masks) == ["person", "flag"]  # 13 and 150; there is no query for 0
    np.testing.assert_array_equal(masks["person"], stripes(0, 1, 0).astype(bool))
    np.testing.assert_array_equal(masks["flag"], stripes(0, 0, 1).astype(bool))
    for target in records[1].targets:
        assert target.kind == "class"
        np.testing.assert_array_equal(target.ignore, stripes(1, 0).astype(bool))
    assert list(masks_of(records, 0)) == ["wall"]
    np.testing.assert_array_equal(records[0].targets[0].ignore, stripes(0, 1).astype(bool))


def test_ade20k_by_its_own_table(tmp_path: Path) -> None:
    write_ade20k(tmp_path, a=stripes(1, 2, 3))
    table = "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t9\t1\twall\n2 \t0.1\t9\t1\tbed, cot \n3\t0.1\t9\t1\tSofa;couch\n"
    (tmp_path / "ade20k/objectInfo150.txt").write_text(table)
    records = ade20k(tmp_path)
    assert records.classes == ("wall", "bed", "sofa")
    assert list(masks_of(records)) == ["wall", "bed", "sofa"]
    (tmp_path / "ade20k/objectInfo150.txt").write_text(table.replace("3\t", "x\t"))
    with pytest.raises(DataError, match=r"objectInfo150.txt' is not ADE20K's table"):
        ade20k(tmp_path)
    (tmp_path / "ade20k/objectInfo150.txt").write_text(table.replace("Sofa", "wall"))
    with pytest.raises(DataError, match=r"names 'wall' twice"):
        ade20k(tmp_path)


def test_cocostuff_is_shifted_by_one_and_ignores_vague_names(tmp_path: Path) -> None:
    write_cocostuff(tmp_path, one=stripes(0, 156, 170, 255))
    records = cocostuff(tmp_path)
    sample = records[0]
    assert [target.query for target in sample.targets] == ["person", "sky"]
    np.testing.assert_array_equal(sample.targets[0].ignore, stripes(0, 0, 1, 1).astype(bool))  # wall-brick, unlabeled
    assert len(records.classes) == 182 - 28
    assert not any("-" in name for name in records.classes)


def test_cocostuff_by_its_own_list(tmp_path: Path) -> None:
    write_cocostuff(tmp_path, one=stripes(0, 1))
    (tmp_path / "cocostuff/labels.txt").write_text("0: unlabeled\n1: Person\n2: sky-other\n")
    records = cocostuff(tmp_path)
    assert records.classes == ("person",)
    assert [target.query for target in records[0].targets] == ["person"]
    (tmp_path / "cocostuff/labels.txt").write_text("person\n")
    with pytest.raises(DataError, match="not like '1: person'"):
        cocostuff(tmp_path)


def test_photographs_of_coco_without_a_label_map_serve_other_datasets(tmp_path: Path) -> None:
    write_cocostuff(tmp_path, one=stripes(0))
    photograph(tmp_path / "coco/train2017/two.jpg")
    assert len(cocostuff(tmp_path)) == 1


@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
def test_mapillary(tmp_path: Path, version: str) -> None:
    names = ["Bird", "Lane Marking - Crosswalk", "Unlabeled"]
    write_mapillary(tmp_path, names, version=version, x=stripes(0, 1, 2))
    records = load_data(f"mapillary:root={tmp_path},version={version}")
    assert isinstance(records, Records)
    assert records.classes == ("bird", "lane marking - crosswalk")
    sample = records[0]
    assert [target.query for target in sample.targets] == ["bird", "lane marking - crosswalk"]
    np.testing.assert_array_equal(sample.targets[1].ignore, stripes(0, 0, 1).astype(bool))


def test_real_mapillary_config() -> None:
    classes = mapillary_classes(shared("mapillary/config_v1.2.json"))
    assert classes.names == {0: "bird", 1: "separator", 2: "bicycle"}


def test_lists_that_travel_with_the_package() -> None:
    ade = (LISTS / "ade20k.txt").read_text().splitlines()
    assert (len(ade), len(set(ade))) == (150, 150)
    assert (ade[0], ade[12], ade[89], ade[149]) == ("wall", "person", "television receiver", "flag")
    stuff = (LISTS / "cocostuff.txt").read_text().splitlines()
    assert len(stuff) == 183
    assert (stuff[0], stuff[91], stuff[92], stuff[182]) == ("0: unlabeled", "91: hair brush", "92: banner", "182: wood")
    assert [line.split(":")[0] for line in stuff] == [str(number) for number in range(183)]
    assert sum("-" in line for line in stuff) == 28  # the entries that LISA ignores


# ---------------------------------------------------------------- one decode, no copies


def test_a_label_map_is_decoded_once_for_all_its_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ade20k(tmp_path, a=stripes(1, 2, 3, 4, 5, 0))
    records, reads = ade20k(tmp_path), list[str]()

    def counting(path: Path) -> np.ndarray:
        reads.append(path.name)
        return load_labels(path)

    monkeypatch.setattr("seglens.data.semantic.load_labels", counting)
    sample = records[0]
    assert len(sample.targets) == 5
    assert reads == ["a.png"]
    assert len({id(target.ignore) for target in sample.targets}) == 1
    some = records.usable(0, lambda count: [count - 1, 0])[0]
    assert some is not None
    assert [target.query for target in some.targets] == ["tree", "wall"]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("build", "folders"),
    [
        (ade20k, ("ade20k/images/training", "ade20k/annotations/training")),
        (cocostuff, ("coco/train2017", "cocostuff/train2017")),
        (mapillary, ("mapillary/training/images", "mapillary/training/v2.0/labels", "mapillary/config_v2.0.json")),
    ],
)
def test_missing_folders_are_named_all_at_once(
    tmp_path: Path, build: Callable[[Path], Records], folders: tuple[str, ...]
) -> None:
    with pytest.raises(DataError) as caught:
        build(tmp_path)
    assert "\n" not in str(caught.value)
    assert all(folder in str(caught.value) for folder in folders)


def test_a_file_without_its_partner_is_refused_or_left_out(tmp_path: Path) -> None:
    write_ade20k(tmp_path, a=stripes(1), b=stripes(1), c=stripes(1))
    (tmp_path / "ade20k/images/training/a.jpg").unlink()
    (tmp_path / "ade20k/annotations/training/b.png").unlink()
    with pytest.raises(DataError, match=r"2 bad records: .*a\.png: a: its image .*; .*b\.jpg: b: its label map"):
        ade20k(tmp_path)
    records = ade20k(tmp_path, bad="skip")
    assert [entry.id for entry in records.entries] == ["c"]
    assert [fault.record for fault in records.faults] == ["a", "b"]


def test_an_unknown_value_is_named_with_its_file(tmp_path: Path) -> None:
    write_ade20k(tmp_path, a=stripes(1, 151, 200), b=stripes(1))
    with pytest.raises(DataError, match=r"a\.png: a: .* holds the label 151, 200, .* 1 to 150"):
        ade20k(tmp_path)[0]
    records = ade20k(tmp_path, bad="skip")
    assert [sample.id for sample in records] == ["b"]
    assert "151, 200" in records.faults[0].message


def test_a_map_of_another_size_is_one_fault_not_one_per_class(tmp_path: Path) -> None:
    write_ade20k(tmp_path, a=stripes(1, 2, 3)[:, :5])
    faults = list(ade20k(tmp_path).check())
    assert [str(fault) for fault in faults] == [
        f"{tmp_path}/ade20k/annotations/training/a.png: a: the mask has 6 x 5 pixels (height x width), "
        f"and its image {SIZE[0]} x {SIZE[1]}"
    ]


def test_a_damaged_map_is_a_fault(tmp_path: Path) -> None:
    write_ade20k(tmp_path, a=stripes(1), b=stripes(1), c=stripes(1))
    file = tmp_path / "ade20k/annotations/training/a.png"
    file.write_bytes(file.read_bytes()[:50])
    photograph(tmp_path / "ade20k/annotations/training/b.png")
    records = ade20k(tmp_path, bad="skip")
    assert [sample.id for sample in records] == ["c"]
    assert [re.search("cut short|mode RGB", fault.message) is not None for fault in records.faults] == [True, True]


def test_an_image_of_ignored_pixels_only_is_not_bad(tmp_path: Path) -> None:
    write_ade20k(tmp_path, a=stripes(0), b=stripes(1))
    records = ade20k(tmp_path)
    assert [sample.id for sample in records] == ["b"]
    assert not list(records.check())
    assert records.usable(0, lambda count: range(count))[0] is None
    with pytest.raises(DataError, match="nothing to ask about a"):
        records[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"labels": [{"readable": "Bird"}, {"name": "x"}]}', "label 1 has no readable name"),
        (b'{"labels": [{"readable": "Bird"}, 3]}', "label 1 has no readable name"),
        (b'{"labels": [{"readable": "Bird"}, {"readable": "bird"}]}', "names 'bird' twice"),
        (b'{"labels": []}', "no list of labels"),
        (b"[]", "no list of labels"),
        (b'{"labels": [', "is not JSON"),
        ('{"labels": [{"readable": "Stra\xdfe"}]}'.encode("latin-1"), "is not UTF-8"),
    ],
)
def test_a_config_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    write_mapillary(tmp_path, ["Bird"], a=stripes(0))
    (tmp_path / "mapillary/config_v2.0.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"config_v2\.0\.json.*{message}"):
        mapillary(tmp_path, bad="skip")


def test_a_config_that_lacks_a_label_of_the_maps(tmp_path: Path) -> None:
    write_mapillary(tmp_path, ["Bird", "Curb"], a=stripes(0, 2))
    with pytest.raises(DataError, match=r"holds the label 2, .* \(it has 0 to 1\)"):
        mapillary(tmp_path)[0]


def test_a_split_that_is_not_for_training(tmp_path: Path) -> None:
    write_ade20k(tmp_path, split="validation", a=stripes(1))
    assert not ade20k(tmp_path, split="val").trainable
    with pytest.raises(ValueError, match="split=test; choose from train, val"):
        load_data(f"ade20k:root={tmp_path},split=test")
    json.dumps(load_data(f"ade20k:root={tmp_path},split=val")[0].targets[0].query)


def test_the_case_of_a_suffix_does_not_matter(tmp_path: Path) -> None:
    """A photograph and its map would both be left out without a word."""
    write_ade20k(tmp_path, a=stripes(1, 2), b=stripes(3))
    folder = tmp_path / "ade20k"
    (folder / "images/training/a.jpg").rename(folder / "images/training/a.JPG")
    (folder / "annotations/training/a.png").rename(folder / "annotations/training/a.PNG")
    assert [sample.id for sample in load_data(f"ade20k:root={tmp_path}")] == ["a", "b"]


def test_some_images_are_spread_over_a_dataset(tmp_path: Path) -> None:
    data = ade20k(write_ade20k(tmp_path, **{name: stripes(1) for name in "abcdef"}))
    assert [entry.id for entry in data.some(3).entries] == ["a", "c", "e"]
    assert [entry.id for entry in data.some(9).entries] == list("abcdef")
    assert len(data) == 6
