"""Objects and parts of COCO's json: words, masks, and what is wrong with a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lisa_files import SQUARE, coco_json, write_paco, write_pascal_part

from seglens.data import load_data
from seglens.data.faults import DataError
from seglens.data.image_record import ImageRecord
from seglens.data.parts import PartCategory, PartsFile, paco, pascal_part
from shared import shared

JSON = "vlpart/paco/annotations/paco_lvis_v1_train.json"


def test_names_lose_their_qualifier() -> None:
    assert PartCategory.parse("mouse_(computer_equipment)") == PartCategory("mouse")
    assert PartCategory.parse("Drum_(musical_instrument):Rim") == PartCategory("drum", "rim")
    assert PartCategory.parse("trash_can:inner_body").forms() == (
        "trash_can inner_body",
        "the inner_body of the trash_can",
    )
    for text in ("a:b:c", ":b", "a:", ""):
        with pytest.raises(ValueError, match="neither 'object' nor 'object:part'"):
            PartCategory.parse(text)


def test_paco(tmp_path: Path) -> None:
    records = paco(write_paco(tmp_path))
    assert [entry.id for entry in records.entries] == ["11", "12"]
    assert [str(note) for note in records.notes] == [f"{tmp_path / JSON}: image 13: has no annotation"]
    assert records.classes == ("dog", "mouse", "dog leg", "mouse left_button")
    assert records.trainable
    first, second = records
    assert [(t.query, t.kind) for t in first.targets[:1]] == [("dog", "class")]
    assert {t.query for t in first.targets[1:]} <= {"dog leg", "the leg of the dog"}
    assert [t.kind for t in second.targets] == ["class", "part"]
    square = np.zeros((6, 8), bool)
    square[1:4, 1:5] = True
    np.testing.assert_array_equal(first.targets[0].mask, square)
    column = np.zeros((6, 8), bool)
    column[:, 1] = True
    np.testing.assert_array_equal(first.targets[2].mask, column)  # run lengths
    assert second.targets[1].mask[0, 7]  # the second polygon of an annotation belongs to it too


def test_the_form_of_a_part_is_fixed_by_its_id_and_the_seed(tmp_path: Path) -> None:
    one = {"id": 11, "file_name": "train2017/11.jpg", "height": 6, "width": 8}
    many = [{"id": number, "image_id": 11, "category_id": 3, "segmentation": [SQUARE]} for number in range(2000)]
    write_paco(tmp_path, coco_json(images=[one], annotations=many))

    def queries_of(seed: int, **changes: Any) -> list[str]:
        entry = next(iter(PartsFile(tmp_path / JSON, tmp_path / "coco", seed).entries()))
        assert isinstance(entry, ImageRecord)
        assert isinstance(entry.queries, tuple)
        return [query.text for query in entry.queries]

    queries = queries_of(0)
    assert queries == queries_of(0)
    assert queries != queries_of(1)
    assert set(queries) == {"dog leg", "the leg of the dog"}
    assert abs(queries.count("dog leg") - 1000) < 4 * np.sqrt(500)  # four standard deviations of a fair coin
    (tmp_path / JSON).write_text(json.dumps(coco_json(images=[one], annotations=many[::-1])))
    assert queries_of(0) == queries[::-1]  # whatever comes before it in the file


def test_pascal_part(tmp_path: Path) -> None:
    records = load_data(f"pascal_part:root={write_pascal_part(tmp_path)},seed=3")
    (sample,) = records
    assert sample.id == "2008000008"
    assert sample.targets[0].query in ("bus license plate", "the license plate of the bus")
    assert sample.targets[0].kind == "part"


def test_real_coco_annotations(tmp_path: Path) -> None:
    file = shared("coco/annotations/instances_train2017.json")
    records = list(PartsFile(file, shared("coco/train2017"), seed=0).entries())
    content = json.loads(file.read_text())
    entries = [one for one in records if isinstance(one, ImageRecord)]
    assert len(entries) == len(records)
    areas = {f"annotation {one['id']}": one["area"] for one in content["annotations"] if not one["iscrowd"]}
    ratios = list[float]()
    for entry in entries[:12]:
        assert isinstance(entry.queries, tuple)
        assert entry.size is not None
        ratios += [
            query.mask.draw(entry.size).mask.sum() / areas[query.record]
            for query in entry.queries
            if query.record in areas
        ]
    assert len(ratios) > 50
    assert abs(np.median(ratios) - 1) < 0.02  # outlines against stated areas


# ---------------------------------------------------------------- bad input


def test_missing_folders_are_named_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{JSON}, coco in .* folder that holds vlpart/ and coco/"):
        paco(tmp_path)
    with pytest.raises(DataError, match=r"train\.json, .*JPEGImages in"):
        pascal_part(tmp_path)


def annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": 11, "category_id": 1, "segmentation": [SQUARE], **changes}


@pytest.mark.parametrize(
    ("bad", "record", "message"),
    [
        (annotation(id=101), "annotation 101", "has the id of an earlier one"),
        (annotation(image_id=99), "annotation 7", "has image_id 99, which is missing"),
        (annotation(category_id=99), "annotation 7", "has category_id 99, which is missing"),
        (annotation(segmentation="x"), "annotation number 5 of its list", "wrong type"),
        (annotation(image_id=[11]), "annotation number 5 of its list", r"has image_id='\[11\]'"),
        ({"id": 7}, "annotation number 5 of its list", "has no image_id, category_id, segmentation"),
        (3, "annotation number 5 of its list", "is '3', not a record"),
    ],
)
def test_a_bad_annotation_is_a_fault_of_the_index(tmp_path: Path, bad: Any, record: str, message: str) -> None:
    write_paco(tmp_path, coco_json(annotations=[*coco_json()["annotations"], bad]))
    with pytest.raises(DataError, match=rf"1 bad records: .*{JSON}: {record}: .*{message}"):
        paco(tmp_path)
    records = paco(tmp_path, bad="skip")
    assert [len(sample.targets) for sample in records] == [3, 2]
    assert [fault.record for fault in records.faults] == [record]


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([[1.0, 1.0, 5.0, 4.0]], "a polygon of 4 numbers"),  # two points; pycocotools would take them for a box
        ([[1.0, 1.0, 5.0, 4.0, 3.0]], "a polygon of 5 numbers"),
        ([], "no polygon"),
        ([[100.0, 100.0, 120.0, 100.0, 120.0, 120.0]], "for an image of 6 x 8 pixels"),
        ([[2.0, 2.0, 2.1, 2.0, 2.1, 2.1]], "is empty"),
        ({"size": [5, 8], "counts": [0, 40]}, "an RLE of 5 x 8"),
        ({"size": [6, 8], "counts": "P"}, "cut short"),
        ({"size": [6, 8], "counts": [48]}, "is empty"),
    ],
)
def test_a_mask_that_cannot_be_drawn_is_a_fault_when_decoded(tmp_path: Path, outline: Any, message: str) -> None:
    write_paco(tmp_path, coco_json(annotations=[*coco_json()["annotations"], annotation(segmentation=outline)]))
    records = paco(tmp_path)
    with pytest.raises(DataError, match=rf"{JSON}: annotation 7: .*{message}"):
        records[0]
    assert len(records[1].targets) == 2
    assert [fault.record for fault in records.check()] == ["annotation 7"]
    assert [len(sample.targets) for sample in paco(tmp_path, bad="skip")] == [3, 2]


def test_bad_images_and_categories(tmp_path: Path) -> None:
    content = coco_json()
    content["images"].append(dict(content["images"][0]))
    content["categories"].append({"id": 9, "name": "a:b:c"})
    write_paco(tmp_path, content)
    (tmp_path / "coco/train2017/12.jpg").unlink()
    with pytest.raises(
        DataError, match=r"3 bad records: .*category 9: .*; .*image 11: has the id.*; .*image 12: its file"
    ):
        paco(tmp_path)
    assert [sample.id for sample in paco(tmp_path, bad="skip")] == ["11"]


def test_an_image_of_another_size_than_annotated(tmp_path: Path) -> None:
    content = coco_json()
    content["images"][0]["height"] = 7
    records = paco(write_paco(tmp_path, content))
    with pytest.raises(DataError, match=r"gives 7 x 8 \(height x width\), and .* has 6 x 8"):
        records[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "no list of categories"),
        (b'{"categories": [], "images": {}, "annotations": []}', "no list of images"),
        (b'{"categories": ', "is not JSON"),
        (b'{"categories": [{"id": 1, "name": "caf\xe9"}]}', "is not UTF-8"),
        (b'{"categories": [], "images": [], "annotations": []}', "no usable image"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, message: str) -> None:
    (write_paco(tmp_path) / JSON).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        paco(tmp_path, bad="skip")
    assert "\n" not in str(caught.value)
