"""RefCOCO's family: the published layout, masks, splits, and every bad record named."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_refer import (
    COCO,
    SIZE,
    block,
    changed,
    coco_name,
    false_refs,
    general_refs,
    instances,
    ref,
    refs,
    save,
    save_image,
    sentence,
)

from seglens.data import load_data
from seglens.data.faults import RecordFault
from seglens.data.image_record import ImageRecord
from seglens.data.records import Records
from seglens.data.refer import FORMS, read
from shared import shared


def load(root: Path, options: str = "", name: str = "refcoco") -> Records:
    data = load_data(f"{name}:root={root}{options}")
    assert isinstance(data, Records)
    return data


def entries(records: Any) -> list[ImageRecord]:
    assert not any(isinstance(one, RecordFault) for one in records)
    return list(records)


# -------------------------------------------------------------------------------------- the published files


def test_the_published_refcoco() -> None:
    data = read(shared("refcoco"), "refcoco")
    (entry,) = entries(list(data.entries("testA")))
    assert callable(entry.queries) is False
    assert {query.record.split()[1] for query in entry.queries} == {"7571", "7572"}
    assert len(entry.queries) == 6
    assert entry.image.name == "COCO_train2014_000000495169.jpg"
    assert entry.size == (480, 640)
    first = entry.queries[0]
    assert (first.text, first.record, first.kind) == ("girl on the very left", "ref 7571 sent 21565", "phrase")
    mask = first.mask.draw(entry.size).mask
    assert mask.sum() == 25_275
    rows, columns = np.nonzero(mask)
    x, y, width, height = 1.08, 155.33, 129.44, 318.2  # the box of annotation 220551
    assert abs(columns.min() - x) < 1
    assert abs(rows.min() - y) < 1
    assert abs(columns.max() + 1 - (x + width)) < 1
    assert abs(rows.max() + 1 - (y + height)) < 1


def test_the_published_refcocog() -> None:
    data = read(shared("refcoco"), "refcocog")
    assert data.splits() == ["test", "train", "val"]
    areas = [len(entry.queries) for split in data.splits() for entry in entries(list(data.entries(split)))]
    assert areas == [4, 4, 4]


def test_a_photograph_that_is_not_on_disk_is_named() -> None:
    root = shared("refcoco")
    with pytest.raises(ValueError, match=r"1 bad records: .*COCO_train2014_000000495169.jpg does not exist"):
        load(root, ",split=testA")
    with pytest.raises(ValueError, match=r"no usable image.*000000495169"):
        load(root, ",split=testA,bad=skip")


# -------------------------------------------------------------------------------------- what a record gives


def test_an_image_comes_with_all_its_queries(tmp_path: Path) -> None:
    train = load(save(tmp_path), ",split=train")
    (sample,) = train
    assert [t.query for t in sample.targets] == ["left box", "the box é", "two boxes"]
    assert sample.id == "refcoco-train-101"
    assert sample.image.shape == (*SIZE, 3)
    assert train.trainable
    assert not train.faults
    np.testing.assert_array_equal(sample.targets[0].mask, block(5, 10, 15, 20))
    np.testing.assert_array_equal(sample.targets[2].mask, block(5, 10, 15, 30))  # a union: no pixel counts twice
    assert {t.kind for t in sample.targets} == {"phrase"}


def test_the_first_sentence_of_the_first_reference(tmp_path: Path) -> None:
    """What MLLMSeg's code for pictures of results asks; the order is that of the references."""
    records = [ref(20, 101, 2, "train", sentence(200, "first"), sentence(201, "second")), *refs()]
    save(tmp_path, records=records)
    every = load(tmp_path, ",split=train")
    assert [[t.query for t in sample.targets] for sample in every] == [
        ["first", "second", "left box", "the box é", "two boxes"]
    ]
    (one,) = load(tmp_path, ",split=train,queries=first")
    assert [t.query for t in one.targets] == ["first"]


def test_the_box_of_an_object(tmp_path: Path) -> None:
    """As COCO writes it, where it is written so and the reference points at one object."""
    content = changed(instances(), ("annotations", 0, "bbox"), [10, 5, 10.5, 10])
    content = changed(content, ("annotations", 1, "bbox"), [1, 2, "x", 4])
    save(tmp_path, content=content)
    (sample,) = load(tmp_path, ",split=train")
    assert [target.box for target in sample.targets] == [(10, 5, 10.5, 10), (10, 5, 10.5, 10), None]
    save(tmp_path, "grefcoco", "grefs(unc).json", general_refs(), content)
    assert [t.box for sample in load(tmp_path, name="grefcoco") for t in sample.targets] == [None] * 3


def test_run_lengths(tmp_path: Path) -> None:
    save(tmp_path)
    val = load(tmp_path)
    assert not val.trainable
    np.testing.assert_array_equal(val[0].targets[0].mask, block(2, 3, 12, 9))
    both = load(tmp_path, ",split=testA")[0].targets[0].mask
    np.testing.assert_array_equal(both, block(2, 3, 12, 9) | block(20, 30, 22, 40))
    np.testing.assert_array_equal(load(tmp_path, ",split=testB")[0].targets[0].mask, block(0, 0, 40, 1))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    assert len(load(save(tmp_path, protocol=protocol))) == 1


def test_the_strings_of_python_2(tmp_path: Path) -> None:
    save(tmp_path)
    file = tmp_path / "refcoco" / "refs(unc).p"
    file.write_bytes(file.read_bytes().replace(b"Va block\n", b"S'a caf\\xe9'\n"))
    assert load(tmp_path)[0].targets[0].query == "a café"


def test_json_instead_of_the_pickle(tmp_path: Path) -> None:
    save(tmp_path, file="refs(unc).json")
    assert [t.query for t in load(tmp_path, ",split=train")[0].targets] == ["left box", "the box é", "two boxes"]


@pytest.mark.parametrize(
    ("split", "numbers"),
    [("train", [7, 9]), ("val", [8]), ("test", [10, 11]), ("testA", [10]), ("testB", [11]), ("testC", [11])],
)
def test_splits(tmp_path: Path, split: str, numbers: list[int]) -> None:
    records = entries(list(read(save(tmp_path), "refcoco").entries(split)))
    assert sorted({int(query.record.split()[1]) for one in records for query in one.queries}) == numbers  # type: ignore[union-attr]


def test_a_split_without_references(tmp_path: Path) -> None:
    save(tmp_path, records=[refs()[0], refs()[3]])
    with pytest.raises(ValueError, match="no reference of split val; its splits: testA, train"):
        load(tmp_path)
    with pytest.raises(ValueError, match="choose from train, val"):
        load(tmp_path, ",split=dev")


@pytest.mark.parametrize(("name", "form"), FORMS.items())
def test_every_dataset_by_its_name(tmp_path: Path, name: str, form: Any) -> None:
    folder = tmp_path / form.images[-1]
    save(tmp_path, name, f"{form.refs}({form.split_by}).p", images=())
    for number in (101, 102, 103):
        save_image(folder / coco_name(number))
    assert len(load(tmp_path, ",split=train", name)) == 1


def test_refclef_keeps_its_images_in_folders(tmp_path: Path) -> None:
    content = changed(instances(), ("images", 1, "file_name"), "00/images/102.jpg")
    save(tmp_path, "refclef", content=content, images=())
    save_image(tmp_path / "images/saiapr_tc-12/00/images/102.jpg")
    assert load(tmp_path, name="refclef")[0].id == "refclef-val-102"


def test_options(tmp_path: Path) -> None:
    save(tmp_path, file="refs(google).p", images=())
    for number in (101, 102):
        save_image(tmp_path / "elsewhere" / coco_name(number))
    with pytest.raises(ValueError, match=r"no refs\(unc\)\.p or .*; it has refs\(google\)\.p: choose"):
        load(tmp_path)
    assert len(load(tmp_path, f",split_by=google,images={tmp_path / 'elsewhere'}")) == 1
    with pytest.raises(ValueError, match="mend root="):
        load(tmp_path / "nowhere")


def test_grefcoco(tmp_path: Path) -> None:
    save(tmp_path, "grefcoco", "grefs(unc).json", general_refs())
    data = load(tmp_path, name="grefcoco")
    boxes, dog = data[0].targets
    np.testing.assert_array_equal(boxes.mask, block(5, 10, 15, 30))
    assert (dog.query, dog.kind, dog.present, dog.mask.shape) == ("the dog", "no target", False, SIZE)
    assert data[1].targets[0].mask.sum() == 60


def test_a_reference_without_sentences_gives_no_query(tmp_path: Path) -> None:
    """gRefCOCO was published with such references; its authors' reader goes by sentences and so passes them over."""
    silent = [ref(5, 101, [1], "val"), ref(6, 103, [99], "val")]  # of the second, not even the annotation is there
    save(tmp_path, "grefcoco", "grefs(unc).json", [*general_refs(), *silent])
    (tmp_path / "out").write_text("coco/999\n")
    for options in ("", f",exclude={tmp_path / 'out'}"):
        data = load(tmp_path, options, name="grefcoco")
        assert [len(sample.targets) for sample in data] == [2, 1]
        assert [(note.record, note.message) for note in data.notes] == [
            ("ref 5", "has no sentence, so it gives no query"),
            ("ref 6", "has no sentence, so it gives no query"),
        ]


def test_grefcoco_leaves_out_crowds(tmp_path: Path) -> None:
    content = changed(instances(), ("annotations", 1, "iscrowd"), 1)
    save(tmp_path, "grefcoco", "grefs(unc).json", general_refs(), content)
    np.testing.assert_array_equal(load(tmp_path, name="grefcoco")[0].targets[0].mask, block(5, 10, 15, 20))


def test_false_premises(tmp_path: Path) -> None:
    save(tmp_path, "fprefcoco", "refs(berkeley).p", false_refs())
    true, false = load(tmp_path, name="fprefcoco")[0].targets
    assert (true.query, true.kind, true.present, true.answer) == ("left box", "phrase", True, None)
    assert (false.query, false.kind, false.present, false.answer) == ("left dog", "false premise", False, "left box")


# -------------------------------------------------------------------------------------- what is bad


GOOD = refs()
BAD_REFS: dict[str, tuple[Any, str, str]] = {
    "not an object": (changed(GOOD, (1,), [1]), "refs[1]", "is a list"),
    "no split": (changed(GOOD, (1, "split"), None), "refs[1]", "split is missing"),
    "no ref_id": (changed(GOOD, (1, "ref_id"), None), "refs[1]", "ref_id is missing"),
    "ref_id a list": (changed(GOOD, (1, "ref_id"), [1]), "refs[1]", "ref_id is a list"),
    "ref_id twice": (changed(GOOD, (1, "ref_id"), 7), "refs[1]", "ref_id 7 occurs twice"),
    "image unknown": (changed(GOOD, (1, "image_id"), 999), "ref 8", "image 999 is not in"),
    "image a dict": (changed(GOOD, (1, "image_id"), {}), "ref 8", "image_id is a dict"),
    "annotation unknown": (changed(GOOD, (1, "ann_id"), 99), "ref 8", "annotation 99 is not in"),
    "annotation a word": (changed(GOOD, (1, "ann_id"), 1.5), "ref 8", "ann_id is a float"),
    "annotation of another image": (changed(GOOD, (1, "ann_id"), 1), "ref 8", "is of image 101, not of 102"),
    "some annotations and none": (changed(GOOD, (1, "ann_id"), [3, -1]), "ref 8", "ann_id is [3, -1]"),
    "no annotation": (changed(GOOD, (1, "ann_id"), []), "ref 8", "ann_id is []"),
    "list in a list": (changed(GOOD, (1, "ann_id"), [[3]]), "ref 8", "ann_id lists something else"),
    "no sentences": (changed(GOOD, (1, "sentences"), None), "ref 8", "sentences is missing"),
    "sentences a word": (changed(GOOD, (1, "sentences"), "box"), "ref 8", "sentences is a str"),
    "sentence a word": (changed(GOOD, (1, "sentences", 0), "box"), "ref 8 sentences[0]", "is a str"),
    "sentence empty": (changed(GOOD, (1, "sentences", 0, "sent"), " "), "ref 8 sentences[0]", "the sentence is empty"),
    "sentence a number": (changed(GOOD, (1, "sentences", 0, "sent"), 5), "ref 8 sentences[0]", "sent is a int"),
    "no sent_id": (changed(GOOD, (1, "sentences", 0, "sent_id"), None), "ref 8 sentences[0]", "sent_id is missing"),
    "false premise a word": (
        changed(GOOD, (1, "sentences", 0, "is_false_premise"), "no"),
        "ref 8 sentences[0]",
        "is_false_premise is a str",
    ),
    "true sentence a number": (
        changed(GOOD, (1, "sentences", 0), sentence(80, "x", is_false_premise=True, gt_sent=1)),
        "ref 8 sentences[0]",
        "gt_sent is a int",
    ),
}
SHAPES = instances()


def shaped(new: Any, *key: str) -> Any:
    return changed(SHAPES, ("annotations", 2, "segmentation", *key), new)


def imaged(key: str, new: Any) -> Any:
    return changed(SHAPES, ("images", 1, key), new)


BAD_INSTANCES: dict[str, tuple[Any, str, str]] = {
    "polygon of two points": (shaped([[1, 1, 5, 5]]), "ref 8 sent 80", "at least three points"),
    "polygon of words": (shaped([list("abcdef")]), "ref 8 sent 80", "not a list of numbers"),
    "polygon outside": (
        shaped([[9000, 9000, 9900, 9000, 9900, 9900]]),
        "ref 8 sent 80",
        "annotation 3: got a polygon with the point",
    ),
    "polygon far too large": (shaped([[10**400] * 6]), "ref 8 sent 80", "not a list of numbers"),
    "polygons and run lengths": (shaped([[1, 1, 5, 5, 9, 1], {}]), "ref 8 sent 80", "not a list of numbers"),
    "no shape": (shaped([]), "ref 8", "annotation 3 has no segmentation"),
    "shape a word": (shaped("abc"), "ref 8", "annotation 3 has no segmentation"),
    "run lengths of another size": (shaped([60, 40], "size"), "ref 8 sent 80", "it needs 40 x 60"),
    "run lengths damaged": (shaped("zz\x00", "counts"), "ref 8 sent 80", "invalid RLE"),
    "run lengths too short": (shaped([5], "counts"), "ref 8 sent 80", "do not fill"),
    "annotation twice": (changed(SHAPES, ("annotations", 0, "id"), 3), "ref 8", "annotation 3 is twice in"),
    "image twice": (changed(SHAPES, ("images", 0, "id"), 102), "ref 8", "image 102 is twice in"),
    "image without a name": (imaged("file_name", None), "image 102", "file_name is missing"),
    "image outside": (imaged("file_name", "../../secret.jpg"), "image 102", "leads out of the folder"),
    "image anywhere": (imaged("file_name", "/etc/passwd"), "image 102", "leads out of the folder"),
    "height a word": (imaged("height", "40"), "image 102", "height is a str"),
    "no width": (imaged("width", 0), "image 102", "width is 0"),
    "other height": (imaged("height", 41), "refcoco-val-102", "41 x 60"),
    "annotation a list": (changed(SHAPES, ("annotations", 1), []), "annotations[1]", "is a list"),
    "image without id": (changed(SHAPES, ("images", 2, "id"), None), "images[2]", "id is missing"),
}


@pytest.mark.parametrize("what", [*BAD_REFS, *BAD_INSTANCES])
def test_each_bad_record_is_named_and_the_rest_goes_on(tmp_path: Path, what: str) -> None:
    if what in BAD_REFS:
        records, record, message = BAD_REFS[what]
        content = instances()
    else:
        content, record, message = BAD_INSTANCES[what]
        records = list(GOOD)
    spare = {"id": 50, "image_id": 104, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    content["images"].append({"id": 104, "file_name": coco_name(104), "height": SIZE[0], "width": SIZE[1]})
    content["annotations"].append(spare)
    records = [*records, ref(99, 104, 50, "val", sentence(990, "what is right"))]
    save(tmp_path, records=records, content=content)
    save_image(tmp_path / COCO / coco_name(104))
    data = load(tmp_path, ",bad=skip")
    faults = list(data.check())
    assert [sample.targets[-1].query for sample in data][-1] == "what is right"
    (fault,) = [one for one in faults if one.record == record]
    assert message in fault.message
    assert Path(fault.file).is_file()
    assert "\n" not in str(fault)
    with pytest.raises(ValueError, match="bad records"):
        list(load(tmp_path))


def test_a_sentence_in_two_references(tmp_path: Path) -> None:
    records = [*GOOD, ref(12, 102, 3, "val", sentence(80, "again"))]
    (fault,) = load(save(tmp_path, records=records), ",bad=skip").faults
    assert str(fault).endswith("refs(unc).p: ref 12 sentences[0]: sent_id 80 occurs twice")


def test_missing_images_are_all_named(tmp_path: Path) -> None:
    save(tmp_path, images=(102,))
    data = load(tmp_path, ",split=test,bad=skip")
    assert len(data) == 1
    (fault,) = data.faults
    assert fault.record == "refcoco-test-103"
    assert coco_name(103) in fault.message


def test_lists_nested_without_end(tmp_path: Path) -> None:
    """A kilobyte whose text would fill the memory."""
    bomb: list[Any] = ["ha"]
    for _ in range(60):
        bomb = [bomb, bomb]
    records = [*GOOD[:1]]
    for number, key in enumerate(("split", "ref_id", "image_id", "ann_id", "sentences"), 20):
        records.append({**ref(number, 102, 3, "val", sentence(number, "box")), key: bomb})
    for number, key in enumerate(("sent_id", "sent", "is_false_premise", "gt_sent"), 30):
        sentence_record = {**sentence(number, "box", is_false_premise=True), key: bomb}
        records.append(ref(number, 102, 3, "val", sentence_record))
    records.append(GOOD[1])
    data = load(save(tmp_path, records=records), ",bad=skip")
    assert [t.query for t in data[0].targets] == ["a block"]
    assert len(data.faults) == 5 + 1 + 4  # the list of sentences holds two lists


def test_a_list_of_sentences_that_many_references_share(tmp_path: Path) -> None:
    many = [sentence(n, f"box {n}") for n in range(300)]
    records = [ref(n, 102, 3, "val") | {"sentences": many} for n in range(300)]
    faults = load(save(tmp_path, records=records), ",bad=skip").faults
    assert len(faults) == 299
    assert all("shares its sentences" in fault.message for fault in faults)


@pytest.mark.parametrize(
    ("file", "raw", "message"),
    [
        ("refs(unc).p", b"cos\nsystem\n(S'touch touched'\ntR.", "GLOBAL os.system"),
        ("refs(unc).p", b"(lp0\n(dp1\nVsent_ids\np2\n", "cut short"),
        ("refs(unc).p", pickle.dumps({"refs": []}), "holds a dict; need the list"),
        ("refs(unc).p", pickle.dumps([]), "no reference of split val"),
        ("instances.json", b"", "is not JSON"),
        ("instances.json", b'{"images": [', "is not JSON"),
        ("instances.json", b'{"images": "\xff\xfe"}', "is not UTF-8"),
        ("instances.json", b"[" * 200_000, "nested too deeply"),
        ("instances.json", b"9" * 5000, "cannot be read"),
        ("instances.json", b"[]", "no list of images"),
        ("instances.json", b'{"images": {}, "annotations": []}', "no list of images"),
        ("instances.json", b'{"images": []}', "no list of annotations"),
    ],
)
def test_a_file_of_no_use(tmp_path: Path, file: str, raw: bytes, message: str) -> None:
    path = save(tmp_path) / "refcoco" / file
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, ",bad=skip")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("touched").exists()


def test_without_its_instances(tmp_path: Path) -> None:
    os.remove(save(tmp_path) / "refcoco" / "instances.json")
    with pytest.raises(ValueError, match=r"instances\.json cannot be read"):
        load(tmp_path)


def test_a_damaged_photograph_is_a_fault(tmp_path: Path) -> None:
    (save(tmp_path) / COCO / coco_name(102)).write_bytes(b"\xff\xd8")
    (fault,) = load(tmp_path).check()
    assert fault.record == "refcoco-val-102"


def test_many_references_are_indexed_in_one_pass(tmp_path: Path) -> None:
    """Ten thousand of each, where a search per reference would take minutes."""
    n = 10_000
    content = {
        "images": [{"id": i, "file_name": coco_name(i), "height": 9, "width": 9} for i in range(n)],
        "annotations": [{"id": i, "image_id": i, "segmentation": [[1, 1, 5, 1, 5, 5]]} for i in range(n)],
    }
    records = [ref(i, i, i, "train", sentence(i, "box")) for i in range(n)]
    save(tmp_path, file="refs(unc).json", records=records, content=content, images=())
    assert json.loads((tmp_path / "refcoco" / "refs(unc).json").read_text())[-1]["ref_id"] == n - 1
    assert len(entries(list(read(tmp_path, "refcoco").entries("train")))) == n
