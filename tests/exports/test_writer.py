"""Pages to files: whole ones, in constant memory, under different names."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from exports.predictions import blobs, prediction_of, two_cups
from seglens.data.maskfile import load_mask
from seglens.exports import DEFAULT, FORMATS, AnnotatedImage, Export, write_results


def test_the_default_is_a_lossless_mask_and_an_overlay(tmp_path: Path) -> None:
    assert DEFAULT == ("mask", "overlay")
    with Export(tmp_path) as export:
        (files,) = export.add(AnnotatedImage("In/A", [two_cups()]))
    assert {kind: path.name for kind, path in files.items()} == {
        "mask": "in_a_each_of_the_cups_mask.png",
        "overlay": "in_a_each_of_the_cups_overlay.png",
    }
    np.testing.assert_array_equal(load_mask(files["mask"]), two_cups().mask)
    for number, one in enumerate(two_cups().instances, 1):
        path = tmp_path / f"in_a_each_of_the_cups-{number}_mask.png"
        np.testing.assert_array_equal(load_mask(path), one.mask)
    assert len(list(tmp_path.iterdir())) == 4


def test_all_formats_at_once_and_every_answer_has_its_file(tmp_path: Path) -> None:
    queries = [two_cups(), prediction_of("cat", blobs(1, (40, 60)))]
    with Export(tmp_path, list(FORMATS)) as export:
        answers = [export.add(AnnotatedImage(name, queries)) for name in ("a", "b")]
    assert [list(files) for page in answers for files in page] == [list(FORMATS)] * 4
    for files in (files for page in answers for files in page):
        assert all(path.is_file() for path in files.values())
    assert len({files["mask"] for page in answers for files in page}) == 4
    assert len({files["png"] for page in answers for files in page}) == 2
    assert not list(tmp_path.glob("**/.*"))


def test_no_page_writes_over_another(tmp_path: Path) -> None:
    """Names that are equal, that differ only in what a file name leaves out, or that collide with a query."""
    cup, left = np.zeros((2, 3, 4), bool)
    pages = [
        AnnotatedImage("a/x", [prediction_of("cup", cup)]),
        AnnotatedImage("a_x", [prediction_of("cup", cup)]),
        AnnotatedImage("A-X", [prediction_of("cup", cup)]),
        AnnotatedImage("b", [prediction_of("left cup", left)]),
        AnnotatedImage("b_left", [prediction_of("cup", cup)]),
    ]
    write_results(pages, tmp_path, ["mask", "png", "yolo"])
    assert len(list(tmp_path.glob("*_mask.png"))) == len(list(tmp_path.glob("*_indexed.png"))) == 5
    assert len(list((tmp_path / "labels").iterdir())) == 5


def test_an_error_leaves_whole_files_of_the_finished_pages(tmp_path: Path) -> None:
    def stopping() -> Iterator[AnnotatedImage]:
        yield AnnotatedImage("a", [two_cups()])
        yield AnnotatedImage("b", [two_cups()])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_results(stopping(), tmp_path, list(FORMATS))
    for name in ("coco.json", "coco_polygons.json", "labelstudio.json"):
        record = json.loads((tmp_path / name).read_text())
        assert len(record["images"] if "coco" in name else record) == 2
    assert (tmp_path / "data.yaml").is_file()
    assert not list(tmp_path.glob("**/.*"))


def test_nothing_is_written_without_a_page(tmp_path: Path) -> None:
    write_results([], tmp_path / "out", list(FORMATS))
    assert not (tmp_path / "out").exists()


def test_a_page_that_cannot_be_written_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "b_indexed.png").mkdir()  # where a file should be
    pages = [AnnotatedImage("a", [two_cups()]), AnnotatedImage("b", [two_cups()])]
    with pytest.raises(OSError, match="b_indexed"):
        write_results(pages, tmp_path, ["coco", "png"])
    assert [one["file_name"] for one in json.loads((tmp_path / "coco.json").read_text())["images"]] == ["a.png"]
    assert not list(tmp_path.glob("**/.*"))


def test_names_of_formats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no format 'geojsn'; choose from mask, overlay, .* did you mean 'geojson'"):
        Export(tmp_path, ["geojsn"])


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Many images need no more memory than a few, except for names: what is written at the end is on disk until
    then."""
    masks = [blobs(seed, (100, 150)) for seed in range(4)]
    formats = ["coco", "labelstudio"]

    def held(count: int) -> int:
        with Export(tmp_path / str(count), formats) as export:
            tracemalloc.start()
            for number in range(count):
                export.add(AnnotatedImage(f"{number}", [prediction_of("cat", masks[number % 4])], f"{number}.png"))
            size, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return size

    held(1)  # what the first call keeps once
    few, many = held(4), held(16)
    assert len(json.loads((tmp_path / "16" / "coco.json").read_text())["images"]) == 16
    assert many - few < 12 * 1_000  # an image alone has 45,000 bytes
