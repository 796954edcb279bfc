"""COCO's own masks, and every mistake that an instances json can have."""

from __future__ import annotations

import contextlib
import io
import json
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from own_data import coco_json, judged
from seglens.core.types import Sample, Target
from seglens.data import load_data
from seglens.data.coco import coco_data
from seglens.data.coco_fields import mask_of
from seglens.data.faults import DataError
from seglens.data.masks import encode_rle
from seglens.data.records import Bad, Records
from shared import shared


@contextlib.contextmanager
def theirs() -> Iterator[None]:
    """pycocotools prints its progress, and its numpy code is older than the warnings that numpy 2 gives it."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.fixture(scope="module")
def real() -> COCO:
    with theirs():
        return COCO(shared("coco/annotations/instances_train2017.json"))


def real_data(**options: str) -> Records:
    file = shared("coco/annotations/instances_train2017.json")
    return coco_data(images=shared("coco/train2017"), annotations=file, **options)  # type: ignore[arg-type]


def union(real: COCO, annotations: list[dict[str, Any]]) -> np.ndarray:
    with theirs():
        return np.logical_or.reduce([real.annToMask(one).astype(bool) for one in annotations])


def of(real: COCO, image: str, category: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The instances and the crowds of a category in an image."""
    annotations = real.loadAnns(real.getAnnIds([int(image)], real.getCatIds([category])))
    return [one for one in annotations if not one["iscrowd"]], [one for one in annotations if one["iscrowd"]]


def test_every_annotation_is_drawn_as_pycocotools_does(real: COCO) -> None:
    for annotation in real.anns.values():
        image = real.imgs[annotation["image_id"]]
        drawn = mask_of(annotation).draw((image["height"], image["width"]))
        np.testing.assert_array_equal(drawn.mask, union(real, [annotation]))
    assert len(real.anns) == 557


def test_real_photographs_by_category(real: COCO) -> None:
    data = real_data()
    assert (len(data), data.notes) == (57, [])
    crowded = queries = 0
    for sample in data:
        for target in sample.targets:
            instances, crowds = of(real, sample.id, target.query)
            np.testing.assert_array_equal(target.mask, union(real, instances))
            assert target.kind == "class"
            queries += 1
            crowded += bool(crowds)
            if crowds:
                assert target.ignore is not None
                np.testing.assert_array_equal(target.ignore, union(real, crowds) & ~target.mask)
            else:
                assert target.ignore is None
    assert queries == len({(one["image_id"], one["category_id"]) for one in real.anns.values()})
    assert crowded == 6


def test_crowds_may_count(real: COCO) -> None:
    for sample in real_data(crowd="include"):
        for target in sample.targets:
            instances, crowds = of(real, sample.id, target.query)
            np.testing.assert_array_equal(target.mask, union(real, instances + crowds))
            assert target.ignore is None


def test_instances_against_themselves_have_ap_one(real: COCO) -> None:
    data = real_data(each="instance")
    results, left_out = [], 0
    for sample in data:
        for words, targets in groupby(sample.targets, lambda target: target.query.split(",")[0]):
            instances, crowds = of(real, sample.id, words)
            masks = list(targets)
            assert not crowds
            assert len(masks) == len(instances)
            category = real.getCatIds([words])[0]
            results += [
                {
                    "image_id": int(sample.id),
                    "category_id": category,
                    "score": 1.0,
                    "segmentation": encode_rle(one.mask),
                }
                for one in masks
            ]
    for note in data.notes:
        assert note.message == "has a crowd that is too vague for a query; left out"
        left_out += len(of(real, note.record.split()[1].rstrip(","), note.record.split(", ")[1])[0])
    assert len(data.notes) == 6
    assert len(results) == len(real.anns) - 6 - left_out
    used = {(one["image_id"], one["category_id"]) for one in results}
    with theirs():
        truth = COCO()
        truth.dataset = real.dataset | {
            "annotations": [one for one in real.anns.values() if (one["image_id"], one["category_id"]) in used]
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert judge.stats[0] == 1.0


@pytest.fixture
def scenes() -> list[Sample]:
    """Two scenes of two squares each: a cat at the left, a cat and a dog."""
    samples = []
    for number in range(2):
        image = np.full((40, 60, 3), 40 * number, np.uint8)
        masks = np.zeros((3, 40, 60), bool)
        for at, mask in enumerate(masks):
            mask[5:15, 20 * at + 3 : 20 * at + 12] = True
        samples.append(Sample(str(number), image, tuple(map(Target, ("cat", "cat", "dog"), masks))))
    return samples


@pytest.fixture
def content(scenes: list[Sample], tmp_path: Path) -> dict[str, Any]:
    content = coco_json(tmp_path, scenes, "polygons")
    content["annotations"].reverse()  # an order that is not from left to right
    return content


def saved(folder: Path, content: Any) -> Callable[..., Records]:
    (folder / "instances.json").write_text(json.dumps(content))

    def build(bad: Bad = "refuse", **options: Any) -> Records:
        return coco_data(images=folder / "images", annotations=folder / "instances.json", bad=bad, **options)

    return build


def test_one_query_per_category_or_per_instance(content: Any, scenes: list[Sample], tmp_path: Path) -> None:
    build = saved(tmp_path, content)
    cats, dog = np.logical_or(scenes[0].targets[0].mask, scenes[0].targets[1].mask), scenes[0].targets[2].mask
    for sample in build():
        masks = {target.query: target.mask for target in sample.targets}
        assert set(masks) == {"cat", "dog"}
        np.testing.assert_array_equal(masks["cat"], cats)
        np.testing.assert_array_equal(masks["dog"], dog)
    for sample in build(each="instance"):
        masks = {target.query: target.mask for target in sample.targets}
        assert set(masks) == {"cat, 1st from the left", "cat, 2nd from the left", "dog"}
        np.testing.assert_array_equal(masks["cat, 1st from the left"], scenes[0].targets[0].mask)
        np.testing.assert_array_equal(masks["cat, 2nd from the left"], scenes[0].targets[1].mask)


def test_categories_of_one_name_are_one(content: Any, scenes: list[Sample], tmp_path: Path) -> None:
    content["categories"] = [{"id": 1, "name": "pet"}, {"id": 2, "name": "Pet"}]
    build = saved(tmp_path, content)
    everything = np.logical_or.reduce([target.mask for target in scenes[0].targets])
    for sample in (data := build()):
        (target,) = sample.targets
        assert target.query == "pet"
        np.testing.assert_array_equal(target.mask, everything)
    assert [(note.record, note.message) for note in data.notes] == [
        ("category 2", "has the name of category 1, 'pet'; the two are one category")
    ]
    assert [t.query for t in build(each="instance")[0].targets] == [
        f"pet, {order} from the left" for order in ("1st", "2nd", "3rd")
    ]


def test_names_as_other_systems_write_them(content: Any, tmp_path: Path) -> None:
    (tmp_path / "images" / "train").mkdir()
    (tmp_path / "images" / "0000.png").rename(tmp_path / "images" / "train" / unicodedata.normalize("NFD", "é.png"))
    content["images"][0]["file_name"] = "train\\" + unicodedata.normalize("NFC", "é.png")
    assert len(list(saved(tmp_path, content)())) == 2


def test_a_picture_that_is_listed_twice_is_a_fault(content: Any, tmp_path: Path) -> None:
    """Under two ids, neither of which has all of its annotations."""
    content["images"].append(content["images"][0] | {"id": 3})
    content["annotations"].append(content["annotations"][0] | {"id": 50, "image_id": 3})
    samples, (fault,) = judged(saved(tmp_path, content))
    assert (fault.record, fault.kind) == ("image 3", "duplicate image")
    assert "is the file of image 1; keep one of them" in fault.message
    assert [sample.id for sample in samples] == ["1", "2"]


def test_only_crowds_is_refused_with_the_reason(content: Any, tmp_path: Path) -> None:
    for one in content["annotations"]:
        one["iscrowd"] = 1
    with pytest.raises(DataError, match=r"4 notes: .*has a crowd .*used with crowd=include.*names them all") as caught:
        saved(tmp_path, content)()
    assert [note.record for note in caught.value.notes] == [
        "image 1, dog",
        "image 1, cat",
        "image 2, dog",
        "image 2, cat",
    ]


def test_only_a_crowd_is_a_note(content: Any, tmp_path: Path) -> None:
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] == 2)
    data = saved(tmp_path, content)()
    assert [note.record for note in data.notes] == ["image 1, dog", "image 2, dog"]
    assert {target.query for sample in data for target in sample.targets} == {"cat"}
    assert {t.query for s in saved(tmp_path, content)(crowd="include") for t in s.targets} == {"cat", "dog"}


def test_only_the_training_split_trains(content: Any, tmp_path: Path) -> None:
    saved(tmp_path, content)
    text = f"coco:images={tmp_path / 'images'},annotations={tmp_path / 'instances.json'}"
    assert [load_data(f"{text},split={split}").trainable for split in ("train", "val", "test")] == [True, False, False]
    with pytest.raises(ValueError, match="choose from category, instance"):
        load_data(f"{text},each=thing")


def annotation(content: Any, number: int) -> Any:
    return next(one for one in content["annotations"] if one["id"] == number)


def change(table: str, number: int, **values: Any) -> Callable[[Any], None]:
    def damage(content: Any) -> None:
        next(one for one in content[table] if one["id"] == number).update(values)

    return damage


def add(table: str, *values: Any) -> Callable[[Any], None]:
    return lambda content: content[table].extend(values)


TURNED = encode_rle(np.ones((60, 40), bool))
OUTSIDE = [[90, 9, 99, 9, 99, 20]]
LINE = [[3, 3, 30, 3, 12, 3.001]]
GOOD = {"id": 99, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "bbox": [1, 1, 8, 8]}
# The damage, the record that must be named, the message about it, and how many queries (of 4) are left.
DAMAGES: dict[str, tuple[Callable[[Any], None], str, str, int]] = {
    "two points": (change("annotations", 1, segmentation=[[1, 2, 3, 4]]), "image 1, cat", "annotation 1: got", 3),
    "NaN": (change("annotations", 3, segmentation=[[1, 2, 3, float("nan"), 5, 6]]), "image 1, dog", "no pixel", 3),
    "huge": (change("annotations", 3, segmentation=[[1, 2, 3, 10**400, 5, 6]]), "image 1, dog", "not a list of", 3),
    "thin": (change("annotations", 3, segmentation=LINE), "image 1, dog", "thinner than one", 3),
    "text": (change("annotations", 3, segmentation=[["a"] * 6]), "image 1, dog", "not a list of numbers", 3),
    "flat": (change("annotations", 3, segmentation=[1, 2, 3]), "image 1, dog", "annotation 3: .* flat list", 3),
    "another size": (change("annotations", 3, segmentation=TURNED), "image 1, dog", "it needs 40 x 60", 3),
    "broken runs": (change("annotations", 3, segmentation={"size": [40, 60]}), "image 1, dog", "invalid RLE", 3),
    "box only": (change("annotations", 1, segmentation=[]), "annotation 1", "a box alone is no mask", 3),
    "no segmentation": (change("annotations", 1, segmentation=None), "annotation 1", "has segmentation None", 3),
    "iscrowd": (change("annotations", 1, iscrowd=7), "annotation 1", "has iscrowd 7", 3),
    "box": (change("annotations", 1, bbox=[1, 2]), "annotation 1", r"has bbox \[1, 2\]", 3),
    "huge box": (change("annotations", 1, bbox=[1, 2, 10**400, 3]), "annotation 1", "has bbox", 3),
    "id as text": (add("annotations", GOOD | {"image_id": "1"}), "annotation 99", "to image '1', which", 4),
    "outside": (change("annotations", 1, segmentation=OUTSIDE), "image 1, cat", r"annotation 1: .*\(99, 9\) for", 3),
    "lost image": (add("annotations", GOOD | {"image_id": 77}), "annotation 99", "image 77, which the file", 4),
    "no category": (add("annotations", GOOD | {"category_id": 8}), "annotation 99", "of category 8", 4),
    "no image": (add("annotations", {"id": 99}), "annotation 99", "has image_id None", 4),
    "no object": (add("annotations", "annotation"), r"annotations\[6\]", "is 'annotation', not an object", 4),
    "same annotation": (add("annotations", GOOD | {"id": 1}), "annotation 1", "more than one annotation", 3),
    "same image": (add("images", {"id": 1, "file_name": "0001.png"}), "image 1", "is the id of more than one image", 2),
    "no file": (change("images", 2, file_name="lost.jpg"), "image 2", "there is no file '.*lost.jpg'", 2),
    "no file name": (add("images", {"id": 9, "file_name": 3}), "image 9", "has file_name 3", 4),
    "no id": (add("images", {"file_name": "0000.png"}), r"images\[2\]", "has id None", 4),
    "half a size": (add("images", {"id": 9, "file_name": "0000.png", "width": 3}), "image 9", "has height None", 4),
    "other size": (change("images", 1, height=60, width=40), "1", r"gives 60 x 40 \(height x width\)", 2),
    "nameless": (add("categories", {"id": 9, "name": " "}), "category 9", "it needs words", 4),
    "two names": (add("categories", {"id": 2, "name": "fox"}), "category 2", "is both 'dog' and 'fox'", 2),
    "no category id": (add("categories", {"name": "fox"}), r"categories\[2\]", "has id None", 4),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(name: str, content: Any, tmp_path: Path) -> None:
    damage, record, message, left = DAMAGES[name]
    damage(content)
    samples, faults = judged(saved(tmp_path, content))
    (fault,) = faults
    assert fault.file == str(tmp_path / "instances.json")
    assert re.fullmatch(record, fault.record), fault
    assert re.search(message, fault.message), fault
    assert sum(len(sample.targets) for sample in samples) == left


def test_the_export_of_another_resolution_is_refused(tmp_path: Path) -> None:
    """Every polygon of COCO's own photographs times 1.5: all that do not fit are named, none is cut at the border."""
    content = json.loads(shared("coco/annotations/instances_train2017.json").read_text())
    sides = {one["id"]: (one["width"], one["height"]) for one in content["images"]}
    outside = set()
    for one in content["annotations"]:
        if isinstance(one["segmentation"], list):
            one["segmentation"] = [[1.5 * number for number in part] for part in one["segmentation"]]
            corners = np.concatenate(one["segmentation"]).reshape(-1, 2)
            if (corners - sides[one["image_id"]] > np.maximum(2, 0.01 * np.array(sides[one["image_id"]]))).any():
                outside.add(f"annotation {one['id']}")
    (tmp_path / "x.json").write_text(json.dumps(content))
    data = coco_data(images=shared("coco/train2017"), annotations=tmp_path / "x.json", bad="skip")
    faults = list(data.check())
    assert {fault.message.split(":")[0] for fault in faults if "with the point" in fault.message} == outside
    assert len(outside) > 200


def test_a_bad_record_hides_no_other(content: Any, tmp_path: Path) -> None:
    """Both cats of image 1 are bad when drawn, its dog in the index and when drawn: one pass names all."""
    change("annotations", 1, segmentation=[[1, 2, 3, 4]])(content)
    change("annotations", 2, segmentation=[["a"] * 6])(content)
    change("annotations", 3, segmentation=[[1, 2]])(content)
    content["annotations"].append(GOOD | {"category_id": 2, "iscrowd": 7})
    change("images", 2, height=7)(content)
    change("annotations", 6, segmentation=[[1, 2]])(content)
    data = saved(tmp_path, content)(bad="skip")
    messages = [f"{fault.record}: {fault.message}" for fault in data.check()]
    starts = (
        "annotation 99: has iscrowd",
        "image 1, cat: annotation 2: ",
        "image 1, cat: annotation 1: ",
        "2: the annotation gives 7 x 60",
        "image 2, dog: annotation 6: ",
        "image 1, dog: annotation 3: ",
    )
    assert [start for start, one in zip(starts, messages, strict=True) if not one.startswith(start)] == [], messages


def test_a_bad_image_hides_no_mask(content: Any, tmp_path: Path) -> None:
    """Image 1 is given twice, image 2 is lost or damaged."""
    content["images"].append(content["images"][0])
    change("annotations", 1, segmentation=[[1, 2]])(content)
    change("annotations", 6, segmentation=TURNED)(content)
    build = saved(tmp_path, content)
    file = tmp_path / "images" / "0001.png"
    for damage, image in ((lambda: file.write_bytes(b""), "2: '"), (file.unlink, "image 2: there is no file")):
        damage()
        try:
            messages = [f"{fault.record}: {fault.message}" for fault in build(bad="skip").check()]
        except DataError as error:
            messages = [f"{fault.record}: {fault.message}" for fault in error.faults]
        for start in ("image 1: is the id", image, "image 1, cat: annotation 1: got", "image 2, dog: annotation 6: "):
            assert sum(one.startswith(start) for one in messages) == 1, (start, messages)
        assert len(messages) == 4


def test_targets_carry_ids(content: Any, tmp_path: Path) -> None:
    build = saved(tmp_path, content)
    assert [sorted(target.id or "" for target in sample.targets) for sample in build()] == [["cat", "dog"]] * 2
    single = [sorted(target.id or "" for target in sample.targets) for sample in build(each="instance")]
    assert single == [["1", "2", "3"], ["4", "5", "6"]]


def test_an_image_without_annotation_is_a_note(content: Any, tmp_path: Path) -> None:
    (tmp_path / "images" / "empty.png").write_bytes((tmp_path / "images" / "0000.png").read_bytes())
    content["images"].append({"id": 9, "file_name": "empty.png"})
    (note,) = saved(tmp_path, content)().notes
    assert (note.record, note.message) == ("image 9", "has no annotation")


def test_an_image_without_size_is_a_note(content: Any, tmp_path: Path) -> None:
    del content["images"][1]["height"], content["images"][1]["width"]
    data = saved(tmp_path, content)()
    assert [(note.record, note.message.split(",")[0]) for note in data.notes] == [
        ("image 2", "has no height and width")
    ]
    assert len(list(data)) == 2


def test_numbering_needs_boxes(content: Any, tmp_path: Path) -> None:
    del annotation(content, 1)["bbox"]
    build = saved(tmp_path, content)
    samples, (fault,) = judged(lambda bad: build(bad, each="instance"))
    assert (fault.record, "annotation 1 has no bbox" in fault.message) == ("image 1, cat", True)
    assert [len(sample.targets) for sample in samples] == [1, 3]


@pytest.mark.parametrize("content", ["[]", '{"images": []}', '{"images": 1, "categories": [], "annotations": []}'])
def test_other_json_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=r"x\.json holds no list of .*COCO's instances json"):
        coco_data(images=tmp_path, annotations=tmp_path / "x.json")


def test_a_dataset_that_cannot_be_opened_is_refused_in_one_line(content: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(DataError, match=r"no folder .*nowhere.*; images= names"):
        coco_data(images=tmp_path / "nowhere", annotations=file)
    with pytest.raises(DataError, match=r"x\.json cannot be read \(No such file"):
        coco_data(images=tmp_path, annotations=file)
    file.write_text('{"images": [],\n "annotations": [}')
    with pytest.raises(DataError, match=r"x\.json: line 2: is not JSON"):
        coco_data(images=tmp_path, annotations=file)
    file.write_bytes('{"images": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"x\.json is not UTF-8 \(byte 12\)"):
        coco_data(images=tmp_path, annotations=file)
    file.write_text(f'{{"images": [{"9" * 5000}]}}')
    with pytest.raises(DataError, match=r"x\.json cannot be read \(Exceeds the limit"):
        coco_data(images=tmp_path, annotations=file)
    file.write_text("[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        coco_data(images=tmp_path, annotations=file)
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert len(coco_data(images=tmp_path / "images", annotations=file)) == 2


def test_a_damaged_photograph(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "images" / "0001.png"
    path.write_bytes(path.read_bytes()[:70])
    samples, (fault,) = judged(saved(tmp_path, content))
    assert (fault.record, fault.kind) == ("2", "image")
    assert [sample.id for sample in samples] == ["1"]
    Image.new("RGB", (40, 60)).save(path)
    _, (fault,) = judged(saved(tmp_path, content))
    assert (fault.record, fault.kind) == ("2", "image size")
