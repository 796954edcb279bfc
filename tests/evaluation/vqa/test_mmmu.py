"""MMMU: the official key, one model's real outputs, and the files of the hub."""

from __future__ import annotations

import base64
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from seglens.evaluation.vqa import mmmu, read_answers
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion
from shared import shared


def rows() -> list[dict]:
    """Three questions as the hub words them: options and lists are Python's text."""
    return [
        {
            "id": "validation_Math_1",
            "question": "Which? <image 1>",
            "question_type": "multiple-choice",
            "options": "['one', \"it's two\", 'three']",
            "answer": "B",
        },
        {
            "id": "validation_Art_2",
            "question": "What does <image 1> show?",
            "question_type": "open",
            "options": "[]",
            "answer": "['a cat', 'the cat']",
        },
        {
            "id": "test_Art_Theory_3",
            "question": "Which? <image 1> <image 2>",
            "question_type": "multiple-choice",
            "options": "['x', 'y']",
            "answer": "?",
        },
    ]


@pytest.fixture
def export(tmp_path: Path, encoded: str) -> Path:
    """A JSON-lines export with its images beside it."""
    (tmp_path / "1.png").write_bytes(base64.b64decode(encoded))
    (tmp_path / "2.png").write_bytes(base64.b64decode(encoded))
    lines = [
        {**row, "image_1": "1.png", "image_2": "2.png" if "<image 2>" in row["question"] else None} for row in rows()
    ]
    path = tmp_path / "validation.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_models_outputs_score_what_is_published() -> None:
    """0.360 for LLaVA-1.5-13B on the validation split."""
    folder = shared("general/mmmu")
    questions = mmmu.read(str(folder))
    scores = mmmu.score(questions, read_answers(folder / "llava1.5_13b_val.json", questions))
    assert (scores["questions"], scores["drawn"]) == (900, 0)
    assert round(scores["overall"], 3) == 0.360
    assert len(scores["by_category"]) == 30
    assert list(scores["by_area"]) == list(mmmu.DOMAINS)
    domains = scores["by_area"].items()
    assert sum(value * len(mmmu.DOMAINS[name]) for name, value in domains) / 30 == pytest.approx(scores["overall"])


def test_a_key_cannot_be_asked() -> None:
    question = mmmu.read(str(shared("general/mmmu/answer_dict_val.json")))[0]
    with pytest.raises(
        BenchmarkError, match=r"answer_dict_val.json: validation_Accounting_1: an answer key has no quest"
    ):
        question.check()


def the_three(questions: Sequence[BenchmarkQuestion]) -> None:
    choice, words, secret = questions
    assert choice.prompt == (
        "Which? <image 1>\n(A) one\n(B) it's two\n(C) three\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert words.prompt == "What does <image 1> show?\nAnswer the question using a single word or phrase."
    assert (choice.answer, words.answer, secret.answer) == ("B", ("a cat", "the cat"), None)
    assert [(q.category, q.area) for q in questions] == [
        ("Math", "Science"),
        ("Art", "Art and Design"),
        ("Art_Theory", "Art and Design"),
    ]
    assert [len(question.images) for question in questions] == [1, 1, 2]
    for question in questions:
        question.check()
        assert question.picture().shape == (20, 30, 3)
    scores = mmmu.score([choice, words], {choice.id: "(B)", words.id: "It is the cat."})
    assert (scores["overall"], scores["drawn"]) == (1, 0)
    assert scores["by_area"] == {"Art and Design": 1, "Science": 1}


def test_an_export_is_read(export: Path) -> None:
    the_three(mmmu.read(str(export)))


def test_the_hubs_parquet_is_read(tmp_path: Path, encoded: str) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow, the extra `general`")
    parquet = pytest.importorskip("pyarrow.parquet")
    image = {"bytes": base64.b64decode(encoded), "path": "1.png"}
    held = [{**row, "image_1": image, "image_2": image if "<image 2>" in row["question"] else None} for row in rows()]
    path = tmp_path / "Math" / "validation-00000-of-00001.parquet"
    path.parent.mkdir()
    parquet.write_table(arrow.Table.from_pylist(held), path)
    shutil.copy(path, path.with_name("dev-00000-of-00001.parquet"))
    the_three(mmmu.read(str(tmp_path)))
    the_three(mmmu.read(str(path)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BenchmarkError, match=r"validation-00000-of-00001.parquet: not a parquet file of MMMU"):
        mmmu.read(str(path))


def test_draws_are_the_official_generators() -> None:
    """Seed 42, subjects in the official order whatever the file's, one draw per answer without a letter."""
    choices = dict(zip("ABCD", "wxyz", strict=True))
    questions = [
        BenchmarkQuestion(
            f"validation_{subject}_{k}", "?", "f", "A", choices=choices, category=subject, kind=mmmu.CHOICE
        )
        for subject in ("Sociology", "Art", "Accounting", "Math")
        for k in range(20)
    ]
    rng = random.Random(42)
    expected = {s: [rng.choice("ABCD") == "A" for _ in range(20)] for s in ("Accounting", "Art", "Math", "Sociology")}
    scores = mmmu.score(questions, {question.id: "no idea" for question in questions})
    assert scores["drawn"] == 80
    assert scores["by_category"] == {subject: sum(hits) / 20 for subject, hits in expected.items()}
    assert 0 < scores["overall"] < 1
    assert scores == mmmu.score(questions, {question.id: "no idea" for question in questions})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"id": "validation_Alchemy_1"}, r"the id 'validation_Alchemy_1' names no subject of MMMU"),
        ({"options": "['one'"}, r"options is \"\['one'\"; need a list of texts"),
        ({"options": "__import__('os')"}, r"options is \"__import__"),
        ({"answer": "D"}, r"the answer is 'D'; need one of A, B, C"),
        ({"answer": 3}, r"the answer is 3; need a text or a list of texts"),
        ({"question": ""}, r"question is ''; need text"),
        ({"id": "validation_Art_2"}, r"the id 'validation_Art_2' is taken already"),
    ],
)
def test_a_bad_record_is_refused_by_line(export: Path, change: dict, complaint: str) -> None:
    lines = [json.loads(line) for line in export.read_text().splitlines()]
    lines = [lines[1], {**lines[0], **change}]
    export.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BenchmarkError, match=rf"validation.jsonl:2: {complaint}"):
        mmmu.read(str(export))


def test_a_bad_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answer_dict_val.json"
    for text, complaint in (
        ('{"validation_Art_1": {"ground_truth": "A"}}', r"validation_Art_1: need question_type and ground_truth"),
        ("[]", r"got a list; need an object with an entry per question id"),
        ('{"validation_Art_1":\n', r"answer_dict_val.json:2: not JSON"),
    ):
        path.write_text(text)
        with pytest.raises(BenchmarkError, match=complaint):
            mmmu.read(str(tmp_path))
    path.unlink()
    with pytest.raises(BenchmarkError, match=r"holds no validation-\*.parquet, no .jsonl and no answer_dict"):
        mmmu.read(str(tmp_path))
