"""VQAv2, OK-VQA, TextVQA, VizWiz and GQA from files as they are published; scores done by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import vqa_files

from seglens.evaluation.vqa import BENCHMARKS, BenchmarkQuestion, gqa, read_answers, textvqa, vizwiz, vqa
from seglens.evaluation.vqa.questions import BenchmarkError

SHORT = "Answer the question using a single word or phrase."
Read = Callable[[str], list[BenchmarkQuestion]]


def picture_names(questions: list[BenchmarkQuestion]) -> list[str]:
    """The names of the pictures, each of them decoded."""
    assert all(question.picture().shape == (20, 30, 3) for question in questions)
    return [str(question.images[0].path.name) for question in questions]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("write", "read"), [(vqa_files.vqav2, vqa.read_vqav2), (vqa_files.okvqa, vqa.read_okvqa)])
def test_vqa_is_read_and_scored(tmp_path: Path, encoded: str, write: Callable[[Path, str], Path], read: Read) -> None:
    """down: 2 of 10 gave it, so .6; yes: all; 2: one wrote "two", which VQA's code leaves, nine wrote 2, so all."""
    questions = read(str(write(tmp_path, encoded)))
    assert [q.id for q in questions] == ["262148000", "262148001", "393225000"]
    assert questions[0].prompt == f"Where is he looking? {SHORT}"
    assert picture_names(questions)[::2] == ["COCO_val2014_000000262148.jpg", "COCO_val2014_000000393225.jpg"]
    answers = dict(zip([q.id for q in questions], ["Down.", "Yes", "two"], strict=True))
    scores = vqa.score(questions, answers)
    assert scores["accuracy"] == scores["evalai"] == pytest.approx((0.6 + 1 + 1) / 3)
    assert scores["by_category"] == pytest.approx({"number": 1, "other": 0.6, "yes/no": 1})


def test_a_test_split_goes_to_the_server(tmp_path: Path, encoded: str) -> None:
    root = vqa_files.vqav2(tmp_path, encoded)
    questions = vqa.read_vqav2(str(root / "v2_OpenEnded_mscoco_test-dev2015_questions.json"))
    assert picture_names(questions) == ["COCO_test2015_000000262148.jpg"] * 2
    with pytest.raises(BenchmarkError, match=r"question 262148000: the right answer is not public"):
        vqa.score(questions, {"262148000": "a", "262148001": "b"})
    out = tmp_path / "vqa_OpenEnded_mscoco_test-dev2015_seglens_results.json"
    vqa.SUBMISSION.write(out, questions, {"262148000": "down ", "262148001": "yes"})
    assert json.loads(out.read_text()) == [
        {"question_id": 262148000, "answer": "down"},
        {"question_id": 262148001, "answer": "yes"},
    ]
    assert read_answers(out, questions) == {"262148000": "down", "262148001": "yes"}
    with pytest.raises(BenchmarkError, match=r"1 of 2 questions have no answer"):
        vqa.SUBMISSION.write(out, questions, {"262148000": "down"})
    with pytest.raises(BenchmarkError, match=r"a.tsv must end in .json"):
        vqa.SUBMISSION.check(Path("a.tsv"))


def test_textvqa_is_read_and_scored(tmp_path: Path, encoded: str) -> None:
    """Both sides lose capitals, so all ten are "don't walk"; the first is one of ten, which counts .3."""
    questions = textvqa.read(str(vqa_files.textvqa(tmp_path, encoded)))
    assert picture_names(questions) == ["0054c91397f2fe05.jpg", "005635e119b9f32f.jpg"]
    assert questions[1].prompt == f"what does the light read? {SHORT}"
    scores = textvqa.score(questions, {"34602": "Nous les gosses", "34603": "Dont walk."})
    assert scores == {"questions": 2, "accuracy": pytest.approx((0.3 + 1) / 2)}
    test = textvqa.read(str(tmp_path / "TextVQA_0.5.1_test.json"))
    assert (test[0].answer, test[0].images[0].path.parent.name) == (None, "test_images")  # type: ignore[attr-defined]


def test_vizwiz_is_read_and_scored(tmp_path: Path, encoded: str) -> None:
    """The model's "Coca-Cola" becomes "coca cola", which eight gave; EvalAI takes people's hyphens away as well."""
    questions = vizwiz.read(str(vqa_files.vizwiz(tmp_path, encoded)))
    assert (
        picture_names(questions) == [q.id for q in questions] == ["VizWiz_val_00000000.jpg", "VizWiz_val_00000001.jpg"]
    )
    assert questions[1].prompt == (
        f"What is this? When the provided information is insufficient, respond with 'Unanswerable'. {SHORT}"
    )
    scores = vizwiz.score(questions, {questions[0].id: "unsuitable", questions[1].id: "Coca-Cola"})
    assert scores["accuracy"] == scores["evalai"] == pytest.approx((0.6 + 1) / 2)
    assert scores["by_category"] == pytest.approx({"other": 1, "unanswerable": 0.6})
    test = vizwiz.read(str(tmp_path / "Annotations" / "test.json"))
    assert picture_names(test) == ["VizWiz_test_00000000.jpg"]
    vizwiz.SUBMISSION.write(tmp_path / "out.json", test, {test[0].id: "a cup"})
    assert json.loads((tmp_path / "out.json").read_text()) == [{"image": "VizWiz_test_00000000.jpg", "answer": "a cup"}]


def test_gqa_is_read_and_scored(tmp_path: Path, encoded: str) -> None:
    """The balanced three, by exact match: "a girl" is no "girl"."""
    questions = gqa.read(str(vqa_files.gqa(tmp_path, encoded)))
    assert [q.id for q in questions] == ["20968379", "20968380", "20968381"]
    assert picture_names(questions) == ["n161313.jpg"] * 3
    answers = {"20968379": "Yes.", "20968380": "a girl", "20968381": "red"}
    assert gqa.score(questions, answers) == {
        "questions": 3,
        "accuracy": pytest.approx(2 / 3),
        "binary": 1,
        "open": 0,
        "by_area": {"choose": 1, "query": 0, "verify": 1},
        "by_category": {"attr": 1, "global": 1, "rel": 0},
    }
    gqa.SUBMISSION.write(tmp_path / "out.json", questions, answers)
    assert json.loads((tmp_path / "out.json").read_text())[0] == {"questionId": "20968379", "prediction": "yes"}
    assert read_answers(tmp_path / "out.json", questions)["20968380"] == "a girl"


def change(path: Path, at: list[Any], value: Any) -> None:
    held = json.loads(path.read_text())
    inner = held
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    path.write_text(json.dumps(held))


@pytest.mark.parametrize(
    ("name", "file", "at", "value", "complaint"),
    [
        (
            "vqav2",
            "v2_mscoco_val2014_annotations.json",
            ["annotations", 0, "question_id"],
            7,
            r"question 262148000: the annotations have no answers to it",
        ),
        (
            "vqav2",
            "v2_mscoco_val2014_annotations.json",
            ["annotations", 1, "answers"],
            [],
            r"question 262148001: answers is \[\]; need a list of people's answers",
        ),
        (
            "okvqa",
            "OpenEnded_mscoco_val2014_questions.json",
            ["questions", 1, "image_id"],
            "x",
            r"questions\[1\] needs question_id and image_id",
        ),
        (
            "okvqa",
            "OpenEnded_mscoco_val2014_questions.json",
            ["questions"],
            None,
            r"need a list 'questions'; the file holds info, data_type",
        ),
        (
            "okvqa",
            "OpenEnded_mscoco_val2014_questions.json",
            ["questions", 1, "question_id"],
            262148000,
            r"the id '262148000' is taken already",
        ),
        ("textvqa", "TextVQA_0.5.1_val.json", ["data", 1, "image_id"], "", r"data\[1\]: image_id is ''; need text"),
        ("textvqa", "TextVQA_0.5.1_val.json", ["data", 0, "answers"], [1], r"data\[0\]: answers is \[1\]"),
        ("vizwiz", "Annotations/val.json", [0, "question"], 3, r"val.json: \[0\]: question is 3; need text"),
        (
            "gqa",
            "testdev_balanced_questions.json",
            ["20968380", "imageId"],
            None,
            r"question 20968380: imageId is None",
        ),
    ],
)
def test_a_bad_record_is_refused_by_name(
    tmp_path: Path, encoded: str, name: str, file: str, at: list[Any], value: Any, complaint: str
) -> None:
    root = vqa_files.WRITERS[name](tmp_path, encoded)
    change(root / file, at, value)
    with pytest.raises(BenchmarkError, match=complaint):
        BENCHMARKS[name].read(str(root))


@pytest.mark.parametrize("name", vqa_files.WRITERS)
def test_what_is_missing_is_named(tmp_path: Path, encoded: str, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchmarkError, match=r"empty holds no .*json.*name .*'s folder or its file with --root"):
        BENCHMARKS[name].read(str(tmp_path / "empty"))
    root = vqa_files.WRITERS[name](tmp_path / "full", encoded)
    for folder in ("val2014", "train_images", "val", "images"):
        shutil.rmtree(root / folder, ignore_errors=True)
    with pytest.raises(BenchmarkError, match=r"the image .* does not exist; put the benchmark's images there"):
        BENCHMARKS[name].read(str(root))[0].check()


def test_a_validation_split_needs_its_annotations(tmp_path: Path, encoded: str) -> None:
    root = vqa_files.okvqa(tmp_path, encoded)
    (root / "mscoco_val2014_annotations.json").unlink()
    with pytest.raises(BenchmarkError, match=r"annotations are missing; put mscoco_val2014_annotations.json beside it"):
        vqa.read_okvqa(str(root))
