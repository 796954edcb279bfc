"""Answers against those of ten people. The numbers are what the evaluation code of VQA (vqaEval.py), VizWiz and EvalAI
(m4c_evaluator.py) gave for these answers, and are written down here."""

from __future__ import annotations

import pytest

from seglens.evaluation.vqa import consensus

MIXED = ["yes"] * 3 + ["no"] * 7


@pytest.mark.parametrize(
    ("answer", "people", "vqa", "vizwiz", "evalai"),
    [
        ("Yes.", ["yes"] * 10, 1.0, 1.0, 1.0),
        ("Yes", MIXED, 0.9, 0.9, 0.9),  # not 1: each of the three has only two others
        ("yes", ["yes"] * 2 + ["no"] * 8, 0.6, 0.6, 0.6),
        ("no", ["yes"] * 9 + ["no"], 0.3, 0.3, 0.3),
        ("", ["yes"] * 10, 0.0, 0.0, 0.0),
        (
            "two",
            ["2"] * 4 + ["two"] * 6,
            1.0,
            1.0,
            1.0,
        ),  # "two" of people counts for EvalAI only, which needs none here
        ("The red bus", ["red bus"] * 5 + ["bus"] * 5, 1.0, 1.0, 1.0),
        ("red-bus", ["red bus"] * 2 + ["red-bus"] * 2 + ["bus"] * 6, 1.0, 0.6, 1.0),  # VizWiz leaves people's hyphen
        ("1,000", ["1000"] * 2 + ["1,000"] * 8, 1.0, 0.6, 1.0),
        ("1,000", ["1,000"] * 10, 0.0, 0.0, 1.0),  # people who all agree are not normalised by VQA's code
        ("Coca Cola", ["coca-cola"] * 5 + ["Coca-Cola"] * 5, 1.0, 0.0, 1.0),
        ("left, right", ["left right"] * 3 + ["left, right"] * 3 + ["right"] * 4, 1.0, 0.9, 1.0),
        ("Dont walk", ["don't walk"] * 3 + ["stop"] * 7, 0.9, 0.9, 0.9),
        ("o'clock\tfive", ["oclock 5"] * 4 + ["o'clock 5"] * 6, 1.0, 1.0, 1.0),
        ("joe's, a bar", ["joe's bar"] * 3 + ["bar"] * 7, 0.9, 0.9, 0.9),
    ],
)
def test_an_answer_counts_as_officially(
    answer: str, people: list[str], vqa: float, vizwiz: float, evalai: float
) -> None:
    assert consensus.vqa_accuracy(answer, people) == pytest.approx(vqa)
    assert consensus.vizwiz_accuracy(answer, people) == pytest.approx(vizwiz)
    assert consensus.evalai_accuracy(answer, people) == pytest.approx(evalai)


@pytest.mark.parametrize(
    ("answer", "vqa", "evalai"),
    [
        ("Hello, World!", "hello world", "hello world"),
        ("a/b", "b", "b"),
        ("semi;colon; x", "semicolon x", "semicolon x"),  # one mark beside a space takes all of them
        ("under_score", "under score", "under score"),
        ("1,234 (about)", "1234 about", "1234 about"),
        ("The  Three   Bears.", "3 bears", "3 bears"),
        ("v1.2.3.", "v1.2.3", "v1.2.3"),
        ("it's", "it's", "it 's"),
        ("e-mail@x.org", "e mail xorg", "e mail xorg"),
        ("half-way - there", "halfway there", "halfway there"),
        ("dont couldn'tve", "don't couldn't've", "don't couldn't've"),
        ("None", "0", "0"),
        ("A", "", ""),
        ("...." * 10, "........", "........"),  # 32 periods at most are taken away
    ],
)
def test_the_form_that_is_compared(answer: str, vqa: str, evalai: str) -> None:
    assert consensus.vqa_form(answer) == vqa
    assert consensus.evalai_form(answer) == evalai


def test_the_contractions_are_theirs() -> None:
    """The published table has 114 entries in small letters that change a word; some that a rule would not give."""
    assert len(consensus.CONTRACTIONS) == 114
    some = {word: consensus.CONTRACTIONS.get(word) for word in ("somebody'd", "yall'd've", "ow's'at", "shed", "were")}
    assert some == {
        "somebody'd": "somebodyd",
        "yall'd've": "y'all'd've",
        "ow's'at": "'ow's'at",
        "shed": None,
        "were": None,
    }
