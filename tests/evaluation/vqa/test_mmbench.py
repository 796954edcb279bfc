"""MMBench: its real table, rotations as in the official files, and accuracies done by hand."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from seglens.evaluation.vqa import mmbench
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion
from shared import shared

WriteTable = Callable[..., Path]


@pytest.fixture(scope="module")
def questions() -> list[BenchmarkQuestion]:
    return mmbench.read(str(shared("general/mmbench")))


def right(questions: list[BenchmarkQuestion]) -> dict[str, str]:
    return {question.id: str(question.answer) for question in questions}


def row(index: int, answer: str, image: str, **fields: str) -> dict[str, str]:
    return {
        "index": str(index),
        "question": "What is it?",
        "hint": "",
        "A": "a cup",
        "B": "a hat",
        "C": "",
        "D": "",
        "answer": answer,
        "category": "object",
        "l2-category": "coarse",
        "split": "dev",
        "image": image,
        **fields,
    }


def test_the_sample_is_read(questions: list[BenchmarkQuestion]) -> None:
    assert len(questions) == 20
    by_id = {question.id: question for question in questions}
    assert by_id["672"].prompt == (
        "How many trucks are in this photo?\nA. six\nB. five\nC. seven\nD. eight\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert list(by_id["2222"].choices) == ["A", "B", "C"]  # its D is empty
    assert all(question.picture().shape[2] == 3 for question in questions)


def test_scores_of_the_sample(questions: list[BenchmarkQuestion]) -> None:
    """Letters, the choices' own words, and always A, which six questions have; no rotation, so no CircularEval."""
    assert mmbench.score(questions, right(questions))["vanilla"] == 1
    always = mmbench.score(questions, dict.fromkeys(right(questions), "A"))
    assert always["vanilla"] == sum(question.answer == "A" for question in questions) / 20 == 6 / 20
    assert always["circular"] is None
    assert always["by_category"]["Coarse_Perception:_Image_Scene"] == 1
    words = {question.id: question.choices[str(question.answer)] for question in questions}
    assert mmbench.score(questions, words)["vanilla"] >= 19 / 20  # one text may hold another choice's


def test_every_rotation_must_be_right() -> None:
    """Each choice takes each letter once, the right one goes with its text; always A solves no question."""
    questions = mmbench.read_circular(str(shared("general/mmbench")))
    assert len(questions) == 18 * 4 + 2 * 3
    for group in {question.group for question in questions}:
        turns = [question for question in questions if question.group == group]
        assert len(turns) == len(turns[0].choices)
        assert len({question.choices[str(question.answer)] for question in turns}) == 1
        assert {str(question.answer) for question in turns} == set(turns[0].choices)
        assert all(question.record["A"] == question.choices["A"] for question in turns)
    scores = mmbench.score(questions, right(questions))
    assert (scores["vanilla"], scores["circular"]) == (1, 1)
    always = mmbench.score(questions, dict.fromkeys(right(questions), "A"))
    assert (always["vanilla"], always["circular"]) == (6 / 20, 0)
    answers = right(questions)
    answers[str(672 + 2 * mmbench.STEP)] = "Z"
    assert mmbench.score(questions, answers) == {**scores, "circular": 19 / 20} | {
        "by_category": {**scores["by_category"], "Finegrained_Perception_(instance-level):_Object_Localization": 0},
    }


def test_the_rotations_of_an_official_file(tmp_path: Path, write_table: WriteTable, encoded: str) -> None:
    """Index 1e6 + i is a rotation of i; a short image field is the index of the row that holds it."""
    rows = [
        row(7, "A", encoded),
        row(8, "B", encoded, **{"l2-category": "fine"}),
        row(1_000_007, "B", "7", A="a hat", B="a cup"),
        row(1_000_008, "A", "8", A="a hat", B="a cup"),
    ]
    questions = mmbench.read(str(write_table(tmp_path / "dev.tsv", rows)))
    assert [question.group for question in questions] == ["7", "8", "7", "8"]
    assert mmbench.read_circular(str(tmp_path)) == questions
    assert (questions[2].picture() == questions[0].picture()).all()
    scores = mmbench.score(questions, {"7": "A", "8": "B", "1000007": "a cup", "1000008": "B"})
    assert (scores["questions"], scores["vanilla"], scores["circular"]) == (2, 1, 0.5)
    assert scores["by_area"] == {"coarse": 1, "fine": 0}
    with pytest.raises(BenchmarkError, match=r"index 1000007: a rotation of question 7, which is not there"):
        mmbench.score(questions[2:], {"1000007": "A", "1000008": "A"})


def test_a_submission_for_the_server(tmp_path: Path, write_table: WriteTable, encoded: str) -> None:
    rows = [{k: v for k, v in row(k, "", encoded).items() if k != "answer"} for k in (1, 2)]
    rows[1]["question"] = 'two\nlines, a "quote"\tand a tab'
    questions = mmbench.read(str(write_table(tmp_path / "test.tsv", rows)))
    assert [question.answer for question in questions] == [None, None]
    with pytest.raises(BenchmarkError, match=r"test.tsv:2: index 1: the right answer is not public"):
        mmbench.score(questions, {"1": "A", "2": "B"})
    for name, delimiter in (("out.tsv", "\t"), ("out.csv", ",")):
        mmbench.SUBMISSION.write(tmp_path / name, questions, {"1": "A", "2": "B"})
        with (tmp_path / name).open(newline="") as file:
            written = list(csv.DictReader(file, delimiter=delimiter))
        assert [line["prediction"] for line in written] == ["A", "B"]
        assert [{k: v for k, v in line.items() if k != "prediction"} for line in written] == [
            {k: v for k, v in line.items() if k != "image"} for line in rows
        ]
    with pytest.raises(BenchmarkError, match=r"must end in .tsv or .csv"):
        mmbench.SUBMISSION.write(tmp_path / "out.xlsx", questions, {"1": "A", "2": "B"})
    with pytest.raises(BenchmarkError, match=r"1 of 2 questions have no answer, the first is '2'"):
        mmbench.SUBMISSION.write(tmp_path / "less.tsv", questions, {"1": "A"})
    assert not (tmp_path / "less.tsv").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"answer": "E"}, r"bad.tsv:3: index 2: the answer is 'E'; need one of A, B"),
        ({"question": " "}, r"bad.tsv:3: index 2: question is ' '; need text"),
        ({"A": "", "B": ""}, r"bad.tsv:3: index 2: no choice; need columns A, B"),
        ({"index": "1"}, r"bad.tsv:3: index 1: the id '1' is taken already"),
        ({"index": "x"}, r"bad.tsv:3: index x: need a whole number"),
        ({"image": "17"}, r"bad.tsv:3: index 2: its image is that of index '17', which holds none"),
        ({"image": ""}, r"bad.tsv:3: index 2: image is ''; need text"),
    ],
)
def test_a_bad_row_is_refused_by_index(
    tmp_path: Path, write_table: WriteTable, encoded: str, change: dict[str, str], complaint: str
) -> None:
    path = write_table(tmp_path / "bad.tsv", [row(1, "A", encoded), {**row(2, "A", encoded), **change}])
    with pytest.raises(BenchmarkError, match=complaint):
        mmbench.read(str(path))


def test_a_damaged_table_is_refused_by_line(tmp_path: Path, write_table: WriteTable, encoded: str) -> None:
    path = write_table(tmp_path / "t.tsv", [row(1, "A", encoded), row(2, "A", encoded)])
    whole = path.read_bytes()
    cases = {
        whole.replace(b"index", b"number", 1): r"t.tsv:1: no column index; the header holds number, question",
        whole[: whole.rfind(b"dev")]: r"t.tsv:3: got 11 fields; the header names 12: the file is cut short",
        whole.replace(b"a cup", b'"a cup', 1): r"t.tsv:2: .*; the file is cut short or damaged",
        whole.replace(b"a hat", b"a h\xe4t", 1): r"t.tsv:2: byte 25 of the line is not UTF-8",
        b"": r"t.tsv:1: no column index, question, image, category; the header holds nothing",
        whole.splitlines(True)[0]: r"t.tsv holds no question",
    }
    for held, complaint in cases.items():
        path.write_bytes(held)
        with pytest.raises(BenchmarkError, match=complaint):
            mmbench.read(str(path))


def test_a_truncated_image_is_named(tmp_path: Path, write_table: WriteTable, encoded: str) -> None:
    """Cut in the middle of a base64 group it is found before any question; cut between groups, when it is decoded."""
    path = write_table(tmp_path / "t.tsv", [row(1, "A", encoded[:-5]), row(2, "A", encoded[: len(encoded) // 8 * 4])])
    torn, short = mmbench.read(str(path))
    with pytest.raises(BenchmarkError, match=r"t.tsv:2: index 1: its base64 image of \d+ characters is cut short"):
        torn.check()
    short.check()
    with pytest.raises(BenchmarkError, match=r"t.tsv:3: index 2: the image of \d+ bytes is cut short or damaged"):
        short.picture()


def test_a_folder_must_hold_one_table(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"holds 0 tables; name one .tsv file"):
        mmbench.read(str(tmp_path))
