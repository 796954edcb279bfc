"""One pass names what is wrong, notes what is odd, and counts what is usable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seglens.data.check import Check
from seglens.data.faults import Note, RecordFault
from seglens.data.jsonl import jsonl_data
from seglens.data.records import Records

ALL, PART = [[0, 0, 30, 0, 30, 20, 0, 20]], [[0, 0, 9, 0, 9, 9, 0, 9]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(3):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def records(root: Path, *lines: dict[str, Any]) -> Records:
    (root / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return jsonl_data(file=root / "data.jsonl", bad="skip")


def line(image: str, text: str = "x", polygons: Any = PART) -> dict[str, Any]:
    return {"image": image, "text": text, "polygons": polygons}


def test_faults_and_counts(root: Path) -> None:
    lost, bad = line("lost.png"), line("0.png", "y", [[1, 2]])
    check = Check(records(root, lost, line("0.png"), bad, line("1.png", "z", None), line("2.png", "y", [[1, 2]])))
    first, second, third = check
    assert [one.record for one in (first, second, third)] == ["line 1", "line 3", "line 5"]
    assert all(isinstance(one, RecordFault) for one in (first, second, third))
    assert (check.images, check.queries, check.absent) == (2, 2, 1)


def test_the_limit_is_of_images_to_decode(root: Path) -> None:
    lines = [line(f"{number}.png", polygons=[[1, 2]]) for number in range(3)]
    for limit, count in ((0, 0), (2, 2), (None, 3), (9, 3)):
        assert len(list(Check(records(root, *lines), limit))) == count


def test_notes(root: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.new("RGB", (30, 20)).save(root / "turned.jpg", exif=turned)
    lines = line("0.png", "all", ALL), line("1.png"), line("1.png"), line("turned.jpg")
    notes = list(Check(records(root, *lines)))
    assert all(isinstance(one, Note) for one in notes)
    assert [(one.record, one.message.split(";")[0]) for one in notes] == [
        ("1.png", "has 'x' in several lines"),
        ("0.png", "the mask of 'all' covers the whole image"),
        ("turned.jpg", "has EXIF orientation 3 and is turned upright"),
    ]


def test_copies_are_faults_when_asked_for(root: Path) -> None:
    shutil.copy(root / "0.png", root / "copy.png")
    data = records(root, *(line(name) for name in ("0.png", "1.png", "copy.png")))
    assert list(Check(data)) == []
    (fault,) = Check(data, duplicates=True)
    assert isinstance(fault, RecordFault)
    assert (fault.record, fault.kind) == ("copy.png", "duplicate image")
    assert "has the same bytes as" in fault.message
    assert list(Check(data, limit=2, duplicates=True)) == []
