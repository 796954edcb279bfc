"""What a model's words answer: each benchmark's rule on cases whose official outcome was worked out by hand."""

from __future__ import annotations

import random

import pytest

from seglens.evaluation.vqa.answers import (
    choice_prompt,
    infer_letter,
    mme_label,
    mmmu_hit,
    mmmu_letter,
    mmmu_phrases,
    mmstar_hit,
    paired,
    pope_label,
)
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion

COLOURS = {"A": "red", "B": "blue", "C": "green", "D": "dark blue"}


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("YES, it is", "yes"),
        (" Yes", "yes"),
        ("  Yes", "other"),
        ("", "other"),
        ("It is, yes", "other"),
        ("know", "no"),
        ("Ayes", "yes"),
        ("not really", "no"),
        ("maybe", "other"),
    ],
)
def test_mme_reads_the_first_four_characters(answer: str, label: str) -> None:
    assert mme_label(answer) == label


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("No", "no"),
        ("no, it is", "no"),
        ("There is not one.", "no"),
        ("Yes. It is no dog.", "yes"),
        ("NO", "yes"),
        ("Yes, there is no doubt", "no"),
        ("none", "yes"),
        ("", "yes"),
        ("there are\nno dogs", "yes"),
    ],
)
def test_pope_reads_the_words_of_the_first_sentence(answer: str, label: str) -> None:
    assert pope_label(answer) == label


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. blue", "B"),
        ("The answer is C.", "C"),
        ("green", "C"),
        ("GREEN!", "C"),
        ("A or B", None),
        ("blue", "B"),
        ("dark blue", None),
        ("Z", "Z"),
        ("b", None),
        ("", None),
        ("Cannot determine the answer", "Z"),
        ("B of all them", "B"),
        ("B of all of them", None),
        ("I see a green thing that is far too long an answer", None),
    ],
)
def test_a_letter_by_exact_matching(answer: str, letter: str | None) -> None:
    assert infer_letter(answer, COLOURS) == letter


@pytest.mark.parametrize(
    ("answer", "hit"),
    [
        ("B", True),
        ("b: blue", True),
        ("(B)", True),
        ("Option B", True),
        ("The answer is B", True),
        ("Based on", True),
        ("A", False),
        ("It is B", False),
        ("", False),
        ("\n B", True),
    ],
)
def test_mmstar_wants_the_letter_first(answer: str, hit: bool) -> None:
    assert mmstar_hit(answer, "B") is hit


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(A) or rather (C)", "C"),
        ("A B", "B"),
        ("(B) A", "B"),
        ("B.", "B"),
        ("'C'!", "C"),
        ("I would say that it is green", "C"),
        ("it may be red, no, it is green", "C"),
    ],
)
def test_mmmu_takes_the_last_of_what_it_finds(answer: str, letter: str) -> None:
    assert mmmu_letter(answer, COLOURS, random.Random(0)) == letter


@pytest.mark.parametrize("answer", ["", "green", "B: blue", "b"])
def test_mmmu_draws_a_letter_where_it_finds_none(answer: str) -> None:
    """Python's own generator with that seed gives which."""
    expected, rng = random.Random(42), random.Random(42)
    for _ in range(5):
        assert mmmu_letter(answer, COLOURS, rng) == expected.choice(list(COLOURS))


@pytest.mark.parametrize(
    ("answer", "phrases"),
    [
        ("The answer is 1,234.567.", {1234.57, 1234.0, 234.57}),
        ("x = 5", {5.0}),
        ("Paris", {"paris"}),
        ("y = 2\nso x is C", {" c", "c "}),
        ("", {""}),
        ("-1.5e3", {-1500.0, -1.0, 3.0}),
        ("It is in the end = 3 m", {"3 m", 3.0}),
    ],
)
def test_mmmu_phrases_of_an_open_answer(answer: str, phrases: set[str | float]) -> None:
    assert mmmu_phrases(answer) == phrases


@pytest.mark.parametrize(
    ("answer", "right", "hit"),
    [
        ("The result is 24.32 g", "24.32", True),
        ("24.316", "24.32", True),
        ("24.31", "24.32", False),
        ("$7,243,000", "7243000", True),
        ("it should be Transformation.", "transformation", True),
        ("MgS", ("$MgS$", "MgS"), True),
        ("Florida", ("Tampa", "Florida"), True),
        ("embryo", "embryonic", False),
        ("1.06e3", "1060", True),
        ("-120", "-120", True),
        ("120", "-120", False),
        ("choose C", "C", True),
        ("circle", "C", False),
        ("", "3", False),
    ],
)
def test_mmmu_open_answers(answer: str, right: str | tuple[str, ...], hit: bool) -> None:
    assert mmmu_hit(answer, right) is hit


def test_the_prompt_of_a_choice() -> None:
    assert choice_prompt("What?", {"A": "x", "B": "y"}, "Look.") == (
        "Look.\nWhat?\nA. x\nB. y\nAnswer with the option's letter from the given choices directly."
    )
    assert choice_prompt("什么?", {"A": "x"}).endswith("\nA. x\n请直接回答选项字母。")


def test_every_question_needs_an_answer_and_a_right_one() -> None:
    questions = [BenchmarkQuestion("1", "?", "f:1", "yes"), BenchmarkQuestion("2", "?", "f:2")]
    with pytest.raises(BenchmarkError, match=r"1 of 2 questions have no answer, the first is '2'"):
        paired(questions, {"1": "yes"})
    with pytest.raises(BenchmarkError, match=r"f:2: the right answer is not public"):
        paired(questions, {"1": "yes", "2": "no"})
