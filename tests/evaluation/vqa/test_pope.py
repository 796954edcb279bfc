"""POPE: its real files, and ratios done by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from seglens.evaluation.vqa import pope
from seglens.evaluation.vqa.questions import BenchmarkError
from shared import shared


def test_the_popular_setting_is_half_yes() -> None:
    questions = pope.read(str(shared("general/pope/coco_pope_popular.json")))
    assert len(questions) == 3000
    assert questions[0].id == "popular/1"
    assert questions[0].prompt == "Is there a snowboard in the image?"
    always = pope.score(questions, {question.id: "Yes." for question in questions})
    assert always["by_category"]["popular"] == {
        "accuracy": 0.5,
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
        "yes": 1.0,
    }
    never = pope.score(questions, {question.id: "no" for question in questions})
    assert never["by_category"]["popular"] == {"accuracy": 0.5, "precision": 0, "recall": 0, "f1": 0, "yes": 0}
    full = pope.score(questions, {question.id: str(question.answer) for question in questions})
    assert full["mean"] == {"accuracy": 1, "precision": 1, "recall": 1, "f1": 1, "yes": 0.5}


def test_by_hand_over_two_settings(tmp_path: Path) -> None:
    """popular: 2 of 3 true yes found, 1 false yes; random: all right. The image is that of the mini set."""
    shutil.copytree(shared("general/pope/mini/val2014"), tmp_path / "val2014")
    image = sorted((tmp_path / "val2014").iterdir())[0].name
    for setting, labels in (("popular", "yyynn"), ("random", "yn")):
        rows = [
            {"question_id": k, "image": image, "text": f"Is it {k}?", "label": "yes" if label == "y" else "no"}
            for k, label in enumerate(labels)
        ]
        (tmp_path / f"coco_pope_{setting}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = pope.read(str(tmp_path))
    assert [q.id for q in questions] == [*(f"popular/{k}" for k in range(5)), "random/0", "random/1"]
    answers = ["Yes", "There is no such thing", "yes, it is", "Yes it is. Not sure.", "not there", "sure", "No"]
    scores = pope.score(questions, {question.id: text for question, text in zip(questions, answers, strict=True)})
    assert scores["by_category"]["popular"] == pytest.approx(
        {"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes": 3 / 5}
    )
    assert scores["mean"]["accuracy"] == pytest.approx((3 / 5 + 1) / 2)
    assert scores["mean"]["f1"] == pytest.approx((2 / 3 + 1) / 2)
    for question in questions:
        question.check()
        assert question.picture().shape[2] == 3


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"question_id": 2, "image": "a.jpg", "text": "?", "label": "maybe"}', r"label is 'maybe'; need yes or no"),
        (
            b'{"question_id": 2, "picture": "a.jpg", "text": "?", "label": "no"}',
            r"image is None; need text; the fields",
        ),
        (b'{"id": 2, "image": "a.jpg", "text": "?", "label": "no"}', r"question_id is missing"),
        (b'{"question_id": 1, "image": "a.jpg", "text": "?", "label": "no"}', r"the id 'popular/1' is taken already"),
        (b'{"question_id": 2, "image": "a.j', r"not JSON \(.*column 33\)"),
        (b"[1]", r"got a list; need an object per line"),
        (b'{"question_id": 2, "image": "\xff"}', r"byte 30 of the line is not UTF-8"),
    ],
)
def test_a_bad_line_is_refused_by_number(tmp_path: Path, line: bytes, complaint: str) -> None:
    path = tmp_path / "coco_pope_popular.json"
    path.write_bytes(b'{"question_id": 1, "image": "a.jpg", "text": "?", "label": "yes"}\n' + line + b"\n")
    with pytest.raises(BenchmarkError, match=rf"coco_pope_popular.json:2: {complaint}"):
        pope.read(str(path))


def test_a_folder_without_files(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"holds no \*_pope_\*.json"):
        pope.read(str(tmp_path))
