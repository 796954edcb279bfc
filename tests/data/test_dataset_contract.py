"""The promises of every dataset of the table, on a few images in its own format; no test here names a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from lisa_files import (
    coco_json,
    stripes,
    write_ade20k,
    write_cocostuff,
    write_llava,
    write_mapillary,
    write_paco,
    write_pascal,
    write_pascal_part,
)
from make_refer import coco_name, ref, refs, save, save_image, save_reason, sentence

from own_data import write_coco, write_folder, write_jsonl, write_yolo
from seglens.core.types import Sample, Target
from seglens.data import DATASETS, load_data
from seglens.data.dataset import Dataset, classes_of, faults_of, usable
from seglens.data.faults import DataError
from seglens.data.lisa_tree import TREE
from seglens.data.records import Records
from seglens.data.refer import FORMS


@dataclass(frozen=True)
class Kind:
    """`write` makes files that may train, below a folder, and returns how to load them; `text` is one of the files that
    hold words, if any; `held` is a split that is kept for tests."""

    write: Callable[[Path], str]
    text: str | None = None
    held: str = "val"


def conversations(folder: Path) -> str:
    root = write_llava(folder, "000000000101", "000000000009")
    file, images = root / "llava_dataset/llava_instruct_150k.json", root / "coco/train2017"
    return f"conversations:file={file},images={images}"


def own(write: Callable[[Path, list[Sample]], str], folder: Path) -> str:
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 5:15, 3:12] = masks[1, 2:9, 15:29] = True
    targets = tuple(map(Target, ("the cat", "the dog"), masks))
    return write(folder, [Sample(str(n), np.full((20, 30, 3), 90 * n, np.uint8), targets) for n in range(2)])


def maps(write: Callable[..., Path], name: str, folder: Path) -> str:
    return f"{name}:root={write(folder, b=stripes(2, 3), a=stripes(0, 1, 255))}"


def mapillary(folder: Path) -> str:
    return maps(partial(write_mapillary, names=["Bird", "Curb", "Fence", "Wall"]), "mapillary", folder)


def paco(folder: Path) -> str:
    return f"paco:root={write_paco(folder, coco_json(images=coco_json()['images'][:2]))}"


def pascal_part(folder: Path) -> str:
    return f"pascal_part:root={write_pascal_part(folder)}"


def pascal_context(folder: Path) -> str:
    listed = "ImageSets/SegmentationContext/train.txt"
    write_pascal(folder, 2010, "SegmentationClassContext", listed, b=stripes(2, 3), a=stripes(0, 1, 59))
    return f"pc59:root={folder},split=train"


def pascal_full(folder: Path) -> str:
    labels = "annotations_detectron2/pc459_train"
    write_pascal(folder, 2010, labels, "", ".tif", "I;16", b=stripes(2, 300), a=stripes(0, 458, 65535))
    return f"pc459:root={folder},split=train"


def pascal_voc(folder: Path) -> str:
    listed = "ImageSets/Segmentation/train.txt"
    write_pascal(folder, 2012, "SegmentationClass", listed, mode="P", b=stripes(1, 2), a=stripes(0, 20, 255))
    return f"pas20:root={folder},split=train"


def refer(name: str, folder: Path) -> str:
    form = FORMS[name]
    records = [*refs(), ref(12, 102, 3, "train", sentence(120, "another"))]
    save(folder, name, f"{form.refs}({form.split_by}).p", records, images=())
    for number in (101, 102):
        save_image(folder / form.images[-1] / coco_name(number))
    return f"{name}:root={folder},split=train"


def reasonseg(folder: Path) -> str:
    for name in ("one", "two"):
        save_reason(folder, "train", name)
    return f"reasonseg:root={folder},split=train"


KINDS: dict[str, Kind] = {
    "world": Kind(lambda folder: "world:n=2,seed=3,split=train", held="test"),
    "coco": Kind(partial(own, write_coco), "instances.json"),
    "yolo": Kind(partial(own, write_yolo), "data.yaml"),
    "folder": Kind(partial(own, write_folder)),
    "jsonl": Kind(partial(own, write_jsonl), "data.jsonl"),
    "conversations": Kind(conversations, "llava_dataset/llava_instruct_150k.json"),
    "ade20k": Kind(partial(maps, write_ade20k, "ade20k")),
    "cocostuff": Kind(partial(maps, write_cocostuff, "cocostuff")),
    "mapillary": Kind(mapillary, "mapillary/config_v2.0.json"),
    "paco": Kind(paco, "vlpart/paco/annotations/paco_lvis_v1_train.json"),
    "pascal_part": Kind(pascal_part, "vlpart/pascal_part/train.json"),
    "pc59": Kind(pascal_context, "VOCdevkit/VOC2010/ImageSets/SegmentationContext/train.txt"),
    "pc459": Kind(pascal_full),
    "pas20": Kind(pascal_voc, "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"),
    **{name: Kind(partial(refer, name), f"{name}/instances.json") for name in FORMS},
    "reasonseg": Kind(reasonseg, "ReasonSeg/train/one.json"),
}


@pytest.fixture(params=DATASETS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def spec(name: str, tmp_path: Path) -> str:
    return KINDS[name].write(tmp_path)


def read(spec: str, **options: str) -> Records:
    """A dataset of annotated files. (What is drawn has no files to damage.)"""
    data = load_data(",".join([spec, *(f"{key}={value}" for key, value in options.items())]))
    if not isinstance(data, Records):
        pytest.skip("reads no files")
    return data


def opened(spec: str) -> Dataset | str:
    """The dataset, or the line of its refusal."""
    try:
        data = load_data(spec)
        list(data)
    except ValueError as error:
        return str(error)
    return data


def refused(spec: str) -> str:
    message = opened(spec)
    assert isinstance(message, str), f"{spec} was not refused"
    assert "\n" not in message
    return message


def same(one: Sample, other: Sample) -> bool:
    targets = zip(one.targets, other.targets, strict=True)
    words = [(a.query, a.kind, a.answer) == (b.query, b.kind, b.answer) for a, b in targets]
    masks = [np.array_equal(a.mask, b.mask) for a, b in zip(one.targets, other.targets, strict=True)]
    return one.id == other.id and np.array_equal(one.image, other.image) and all(words + masks)


def test_every_dataset_is_tried() -> None:
    assert set(KINDS) == set(DATASETS)
    opened = {place.spec(name, Path("/"), "refuse").partition(":")[0] for name, place in TREE.items()}
    assert opened <= set(DATASETS)


def test_samples(name: str, spec: str) -> None:
    data = load_data(spec)
    assert isinstance(data, Dataset)
    assert spec.startswith(f"{name}:")
    samples = list(data)
    assert len({sample.id for sample in samples}) == len(samples) == len(data) > 0
    known = set(classes_of(data))
    for index, sample in enumerate(samples):
        assert sample.image.dtype == np.uint8
        assert sample.targets
        assert same(sample, data[index])
        for target in sample.targets:
            assert target.query == target.query.strip() != ""
            assert target.mask.shape == sample.image.shape[:2]
            assert target.ignore is None or not (target.ignore & target.mask).any()
            assert not known or target.kind != "class" or target.query in known
        ids = [target.id for target in sample.targets if target.id is not None]
        assert len(set(ids)) == len(ids) == (len(sample.targets) if isinstance(data, Records) else 0)
    assert all(map(same, samples, data))  # again the same
    assert all(map(same, samples, load_data(spec)))
    with pytest.raises(IndexError):
        data[len(data)]


def test_only_the_training_split_may_train(name: str, spec: str, tmp_path: Path) -> None:
    assert load_data(spec).trainable
    held = opened(f"{spec.removesuffix(',split=train')},split={KINDS[name].held}")
    if isinstance(held, str):  # a split that these files do not have
        assert str(tmp_path) in held
    else:
        assert not held.trainable


def test_the_options_of_every_dataset(spec: str) -> None:
    whole = list(load_data(spec))
    (first,) = load_data(f"{spec},limit=1")
    assert same(first, whole[0])
    prompted = load_data(f"{spec},prompt=lens")
    assert [len(sample.targets) for sample in prompted] == [len(sample.targets) for sample in whole]
    assert all(a.query in b.query for a, b in zip(whole[0].targets, next(iter(prompted)).targets, strict=True))
    assert prompted.trainable


def test_questions_are_counted_and_taken_alone(spec: str) -> None:
    data = read(spec)
    for index, sample in enumerate(data):
        count = len(sample.targets)
        assert data.count(index) == count
        last = data.usable(index, lambda count: [count - 1])[0]
        assert last is not None
        assert last.targets[0].query == sample.targets[-1].query
        np.testing.assert_array_equal(last.targets[0].mask, sample.targets[-1].mask)


def test_a_damaged_image_is_refused_or_left_out_by_name(spec: str) -> None:
    good = read(spec)
    assert list(good.check()) == []
    image, others = good.entries[0].image, list(islice(good, 1, None))
    image.write_bytes(image.read_bytes()[:40])
    message = refused(spec)
    assert image.name in message
    assert "bad=skip" in message
    skipping = read(spec, bad="skip")
    assert [fault.kind for fault in skipping.check()] == ["image"]
    assert all(map(same, others, skipping))
    assert len(list(skipping)) == len(others)
    assert [(fault.record, image.name in fault.message) for fault in skipping.faults] == [(good.entries[0].id, True)]


@pytest.mark.parametrize("option", ["", ",limit=9", ",prompt=none"])
def test_samples_by_number_leave_out_the_same_as_iterating(spec: str, option: str) -> None:
    """As processes do that share an evaluation."""
    image, others = read(spec).entries[0].image, list(islice(read(spec), 1, None))
    image.write_bytes(b"")
    with pytest.raises(DataError, match=image.stem):
        usable(load_data(f"{spec}{option}"), 0)
    data = load_data(f"{spec},bad=skip{option}")
    results = [usable(data, index) for index in range(len(data))]
    samples = [sample for sample, _ in results if sample is not None]
    assert results[0][0] is None
    assert [fault.kind for _, faults in results for fault in faults] == ["image"]
    assert len(samples) == len(others)
    assert all(map(same, samples, others))
    assert [fault.kind for fault in faults_of(data)] == ["image"]
    list(data)  # counted once
    assert [fault.kind for fault in faults_of(data)] == ["image"]


def test_a_missing_image_is_refused_or_left_out_by_name(spec: str) -> None:
    good = read(spec)
    image, others = good.entries[0].image, list(islice(good, 1, None))
    image.unlink()
    assert image.stem in refused(spec)
    if not others:
        assert "no usable image" in refused(f"{spec},bad=skip")
        return
    skipping = read(spec, bad="skip")
    left = list(skipping)
    assert len(left) == len(others)
    assert all(map(same, others, left))
    # where the image's name alone ties its masks to it, each of them is a fault
    assert skipping.faults
    assert all(image.stem in str(fault) for fault in skipping.faults)


def test_a_folder_that_is_not_there(spec: str, tmp_path: Path) -> None:
    read(spec)
    assert "nowhere" in refused(spec.replace(str(tmp_path), str(tmp_path / "nowhere")))


def test_text_in_another_encoding(name: str, spec: str, tmp_path: Path) -> None:
    read(spec)
    text = KINDS[name].text
    if text is None:
        pytest.skip("has no text of its own")
    file = tmp_path / text
    file.write_bytes(file.read_bytes() + b"\x81\xff")
    assert file.name in refused(spec)
    left = opened(f"{spec},bad=skip")
    if isinstance(left, str):  # one file for all images: nothing is left
        assert file.name in left
    else:
        assert isinstance(left, Records)
        assert [Path(fault.file).name for fault in left.faults] == [file.name]


def test_options_that_are_wrong(spec: str) -> None:
    assert "there is no option of" in refused(f"{spec},nonsense=1")
    assert "training; choose from train, " in refused(f"{spec.removesuffix(',split=train')},split=training")
    read(spec)
    assert "bad=maybe; choose from refuse, few, skip" in refused(f"{spec},bad=maybe")
