"""MMStar: its table with the choices inside the question, or in columns, and accuracies done by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from seglens.evaluation.vqa import mmstar
from seglens.evaluation.vqa.questions import BenchmarkError

WriteTable = Callable[..., Path]
INSIDE = "Which colour?\nOptions: A: red, B: dark blue, C: green, D: none, of these"


def row(index: int, answer: str, image: str, category: str = "math", question: str = INSIDE) -> dict[str, str]:
    return {
        "index": str(index),
        "question": question,
        "answer": answer,
        "category": category,
        "l2_category": f"{category} {index % 2}",
        "bench": "MMBench",
        "image": image,
    }


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        (INSIDE, {"A": "red", "B": "dark blue", "C": "green", "D": "none, of these"}),
        ("Which?\nChoices:\n(A) 12\n(B) 13\n(C) 14", {"A": "12", "B": "13", "C": "14"}),
        ("Which? Options: A: yes, B: no", {"A": "yes", "B": "no"}),
        ("Which letter follows A, B?", dict.fromkeys("ABCD", "")),
    ],
)
def test_the_choices_inside_a_question(question: str, choices: dict[str, str]) -> None:
    assert mmstar.choices_in(question) == choices


def test_by_hand(tmp_path: Path, write_table: WriteTable, encoded: str) -> None:
    """Five questions in two categories. MMStar wants the letter first; VLMEvalKit also finds it later, or the text."""
    rows = [row(0, "A", encoded), row(1, "B", "0"), row(2, "C", "0"), row(3, "D", "0"), row(4, "B", "0", "science")]
    questions = mmstar.read(str(write_table(tmp_path / "MMStar.tsv", rows)))
    assert questions[0].prompt == f"{INSIDE}\nAnswer with the option's letter from the given choices directly."
    assert all(question.picture().shape == (20, 30, 3) for question in questions)
    answers = {"0": "A", "1": "b: dark blue", "2": "It is C", "3": "none, of these", "4": "(A)"}
    scores = mmstar.score(questions, answers)
    assert scores["questions"] == 5
    assert scores["average"] == 2 / 5  # 0 and 1
    assert scores["vlmevalkit"] == 4 / 5  # 0, 1 by its text, 2 and 3
    assert scores["by_area"] == {"math": 2 / 4, "science": 0}
    assert scores["by_category"] == {"math 0": 1 / 2, "math 1": 1 / 2, "science 0": 0}


def test_choices_in_columns(tmp_path: Path, write_table: WriteTable, encoded: str) -> None:
    rows = [{**row(0, "B", encoded, question="Which colour?"), "A": "red", "B": "blue"}]
    rows[0]["l2-category"] = rows[0].pop("l2_category")
    question = mmstar.read(str(write_table(tmp_path / "MMStar.tsv", rows)))[0]
    assert question.prompt.startswith("Which colour?\nA. red\nB. blue\nAnswer")
    assert (question.area, question.category) == ("math", "math 0")
    assert mmstar.score([question], {"0": "blue"})["vlmevalkit"] == 1


def test_what_is_no_letter_is_refused(tmp_path: Path, write_table: WriteTable, encoded: str) -> None:
    path = write_table(tmp_path / "MMStar.tsv", [row(0, "red", encoded)])
    with pytest.raises(BenchmarkError, match=r"MMStar.tsv:2: index 0: the answer is 'red'; need one of A, B, C, D"):
        mmstar.read(str(path))
    bare = {k: v for k, v in row(0, "A", encoded).items() if k != "category"}
    with pytest.raises(BenchmarkError, match=r"MMStar.tsv:1: no column category"):
        mmstar.read(str(write_table(path, [bare])))
