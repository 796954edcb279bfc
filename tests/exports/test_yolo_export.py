"""YOLO folders in our own reader, in supervision, and by the rules of ultralytics' documentation."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import supervision
import yaml
from hypothesis import given, settings
from PIL import Image

from exports.predictions import MASKS, blobs, prediction_of, two_cups
from seglens.data import load_data
from seglens.data.yolo import Shares, _object
from seglens.exports import AnnotatedImage, to_yolo, write_results


def pages() -> list[AnnotatedImage]:
    nothing = np.zeros((40, 60), bool)
    return [
        AnnotatedImage("a", [two_cups(), prediction_of("yes: 'the' blob", blobs(2, (40, 60)))]),
        AnnotatedImage("b", [prediction_of("each of the cups", nothing), prediction_of("yes: 'the' blob", nothing)]),
        AnnotatedImage(
            "c", [prediction_of("each of the cups", nothing), prediction_of("yes: 'the' blob", blobs(3, (40, 60)))]
        ),
    ]


def test_our_own_reader_gives_the_same_pixels(tmp_path: Path) -> None:
    write_results(pages(), tmp_path, ["yolo"])
    samples = list(load_data(f"yolo:data={tmp_path / 'data.yaml'},split=val"))
    wanted = [{p.query: p.mask for p in page.predictions if p.found} for page in pages() if page.name != "b"]
    assert [[t.query for t in sample.targets] for sample in samples] == [list(masks) for masks in wanted]
    for sample, masks in zip(samples, wanted, strict=True):
        np.testing.assert_array_equal(sample.image, pages()[0].image)
        for target in sample.targets:
            np.testing.assert_array_equal(target.mask, masks[target.query])


@settings(max_examples=40, deadline=None)
@given(MASKS)
def test_any_mask(mask: np.ndarray) -> None:
    lines = to_yolo(prediction_of("cat", mask), {"cat": 3}).splitlines()
    assert len(lines) == mask.any()
    for line in lines:
        number, shares = _object(line.split(), {3: "cat"})
        assert number == 3
        np.testing.assert_array_equal(Shares((shares,)).draw(mask.shape).mask, mask)


def test_a_large_image_loses_nothing_to_decimals() -> None:
    mask = np.zeros((3, 90_001), bool)
    mask[1, 89_801:90_000:2] = True
    line = to_yolo(prediction_of("cat", mask), {"cat": 0})
    np.testing.assert_array_equal(Shares((_object(line.split(), {0: "cat"})[1],)).draw(mask.shape).mask, mask)


def test_it_is_as_ultralytics_documents_it(tmp_path: Path) -> None:
    """Images and labels in folders of these names, a line per object, class and at least three points, all in [0, 1],
    an image without objects has an empty file, `train`, `val` and `names` in the yaml."""
    write_results(pages(), tmp_path, ["yolo"])
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    labels = [f"labels/{name}.txt" for name in "abc"]
    assert files == ["data.yaml", *(f"images/{name}.png" for name in "abc"), *labels]
    content = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert content == {"train": "images", "val": "images", "names": {0: "each of the cups", 1: "yes: 'the' blob"}}
    lines = [(tmp_path / name).read_text().splitlines() for name in labels]
    assert [[line.split()[0] for line in some] for some in lines] == [["0", "0", "1"], [], ["1"]]
    for line in itertools.chain(*lines):
        assert re.fullmatch(r"\d+( (0|1|0\.\d+|\d\.?\d*e-\d+) (0|1|0\.\d+|\d\.?\d*e-\d+)){3,}", line)
    with Image.open(tmp_path / "images" / "a.png") as image:
        assert (image.mode, image.size) == ("RGB", (60, 40))


def test_supervision_takes_it(tmp_path: Path) -> None:
    """It draws the outline of a polygon too: what it adds is on the right, below, and on the lines between pieces."""
    write_results(pages(), tmp_path, ["yolo"])
    data = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "images"), str(tmp_path / "labels"), str(tmp_path / "data.yaml")
    )
    assert data.classes == ["each of the cups", "yes: 'the' blob"]
    by_name = {Path(path).stem: annotations for path, _, annotations in data}
    extra = area = 0
    for page in pages():
        things = [one for p in page.predictions for one in p.things]
        assert len(by_name[page.name]) == len(things)
        for one, mask in zip(things, by_name[page.name].mask if things else (), strict=True):
            assert (mask >= one.mask).all()
            extra, area = extra + (mask & ~one.mask).sum(), area + one.mask.sum()
    assert extra / area == pytest.approx(0.2, abs=0.1)
