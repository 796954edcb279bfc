"""COCO files in pycocotools, supervision and our own reader."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import supervision
from hypothesis import given, settings
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from exports.predictions import MASKS, blobs, prediction_of, two_cups
from seglens.data import load_data
from seglens.data.coco import coco_data
from seglens.exports import AnnotatedImage, to_coco, write_results

# pycocotools gives numpy 2 arrays in a way that numpy 1 knew.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

FILES = {"coco": "coco.json", "coco-polygons": "coco_polygons.json"}


def pages() -> list[AnnotatedImage]:
    """Two images: two cups and a blob, then only the blob."""
    empty = np.zeros((40, 60), bool)
    first = [two_cups(), prediction_of("the blob", blobs(0, (40, 60)))]
    return [
        AnnotatedImage("a", first, "deep/a.png"),
        AnnotatedImage(
            "b", [prediction_of("each of the cups", empty), prediction_of("the blob", blobs(1, (40, 60)))], "b.png"
        ),
    ]


def opened(file: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        return COCO(str(file))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for page in pages():
        file = tmp_path / "images" / str(page.file)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(page.image).save(file)
    return tmp_path / "images"


@pytest.mark.parametrize("form", FILES)
def test_pycocotools_gives_the_same_pixels(form: str, tmp_path: Path) -> None:
    write_results(pages(), tmp_path, [form])
    assert [path.name for path in tmp_path.iterdir()] == [FILES[form]]
    dataset = opened(tmp_path / FILES[form])
    assert {one["name"]: one["id"] for one in dataset.cats.values()} == {"each of the cups": 1, "the blob": 2}
    for number, page in enumerate(pages(), 1):
        assert dataset.imgs[number] == {"id": number, "file_name": page.file, "width": 60, "height": 40}
        things = [(p.query, one) for p in page.predictions for one in p.things]
        annotations = dataset.imgToAnns[number]
        for (query, one), record in zip(things, annotations, strict=True):
            np.testing.assert_array_equal(dataset.annToMask(record), one.mask)
            assert dataset.cats[record["category_id"]]["name"] == query
            assert (record["area"], record["score"], record["iscrowd"]) == (one.mask.sum(), one.score, 0)
            np.testing.assert_array_equal(record["bbox"], coco.toBbox(dataset.annToRLE(record)))
    assert [record["id"] for record in dataset.dataset["annotations"]] == [1, 2, 3, 4]
    assert {type(record["segmentation"]) for record in dataset.anns.values()} == {list if "poly" in form else dict}


@settings(max_examples=30, deadline=None)
@given(MASKS)
def test_any_mask(mask: np.ndarray) -> None:
    for polygons in (False, True):
        dataset = COCO()
        dataset.dataset = to_coco([AnnotatedImage("a", [prediction_of("cat", mask)])], polygons)
        with contextlib.redirect_stdout(io.StringIO()):
            dataset.createIndex()
        drawn = [dataset.annToMask(one) for one in dataset.anns.values()]
        np.testing.assert_array_equal(np.any([np.zeros(mask.shape, bool), *drawn], 0), mask)
        assert len(drawn) == mask.any()


@pytest.mark.parametrize("form", FILES)
def test_our_own_reader_reads_it(form: str, tmp_path: Path, images: Path) -> None:
    write_results(pages(), tmp_path, [form])
    data = load_data(f"coco:images={images},annotations={tmp_path / FILES[form]}")
    wanted = [{p.query: p.mask for p in page.predictions if p.found} for page in pages()]
    for sample, masks in zip(data, wanted, strict=True):
        assert [target.query for target in sample.targets] == list(masks)
        for target in sample.targets:
            np.testing.assert_array_equal(target.mask, masks[target.query])
    one_each = coco_data(images, tmp_path / FILES[form], each="instance")[0]
    assert [t.query for t in one_each.targets][:2] == [f"each of the cups, {n} from the left" for n in ("1st", "2nd")]


def test_the_first_pixel_alone_is_a_mask(tmp_path: Path) -> None:
    """Its polygon looks like the whole image in shares of its sides."""
    mask = np.zeros((40, 60), bool)
    mask[0, 0] = True
    (tmp_path / "images").mkdir()
    Image.fromarray(prediction_of("dot", mask).image).save(tmp_path / "images" / "a.png")
    write_results([AnnotatedImage("a", [prediction_of("dot", mask)], "a.png")], tmp_path, list(FILES))
    for file in FILES.values():
        (sample,) = load_data(f"coco:images={tmp_path / 'images'},annotations={tmp_path / file}")
        np.testing.assert_array_equal(sample.targets[0].mask, mask)


def test_supervision_takes_it(tmp_path: Path, images: Path) -> None:
    """Exactly from run lengths. From polygons it draws outlines too: up to one pixel more to the right and below."""
    write_results(pages(), tmp_path, list(FILES))
    for form, file in FILES.items():
        data = supervision.DetectionDataset.from_coco(str(images), str(tmp_path / file), force_masks=True)
        assert data.classes == ["each of the cups", "the blob"]
        by_name = {Path(path).name: annotations for path, _, annotations in data}
        extra = area = 0
        for page in pages():
            things = [one for p in page.predictions for one in p.things]
            for one, mask in zip(things, by_name[Path(str(page.file)).name].mask, strict=True):
                assert (mask >= one.mask).all()
                extra, area = extra + (mask & ~one.mask).sum(), area + one.mask.sum()
        assert extra / area == pytest.approx(0 if form == "coco" else 0.202, abs=0.001 if extra else 0)


def test_a_picture_that_is_in_no_file_is_written(tmp_path: Path) -> None:
    write_results([AnnotatedImage("Frame 7", [two_cups()])], tmp_path, ["coco", "labelstudio"])
    record = json.loads((tmp_path / "coco.json").read_text())
    assert record["images"][0]["file_name"] == "frame_7.png"
    with Image.open(tmp_path / "images" / "frame_7.png") as image:
        np.testing.assert_array_equal(np.asarray(image), two_cups().image)
    assert len(load_data(f"coco:images={tmp_path / 'images'},annotations={tmp_path / 'coco.json'}")) == 1


def test_the_file_equals_the_result_of_the_function(tmp_path: Path) -> None:
    write_results(iter(pages()), tmp_path, ["coco"])
    assert json.loads((tmp_path / "coco.json").read_text()) == to_coco(pages())
