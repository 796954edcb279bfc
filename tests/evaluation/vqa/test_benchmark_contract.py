"""What every benchmark of the table promises; no test here names one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from vqa_files import WRITERS

from seglens.evaluation.vqa import BENCHMARKS, BenchmarkError, BenchmarkQuestion, take
from shared import shared

ROOTS = {  # samples of the published files; elsewhere what its own test writes
    "mme": "general/mme/mini",
    "mmbench": "general/mmbench",
    "mmbench-circular": "general/mmbench",
    "mmmu": "general/mmmu",
    "pope": "general/pope/mini",
}
DRAWN = {"world-vqa": "n=3,seed=1"}
TABLES = {
    "mmstar": [
        {
            "index": str(n),
            "question": "Which?\nOptions: A: red, B: blue",
            "answer": answer,
            "category": "math",
            "l2_category": "sets",
            "bench": "MMBench",
        }
        for n, answer in enumerate("AB")
    ]
}


@pytest.fixture(params=BENCHMARKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def questions(name: str, tmp_path: Path, encoded: str, write_table: Callable[..., Path]) -> list[BenchmarkQuestion]:
    if name in WRITERS:
        root = str(WRITERS[name](tmp_path, encoded))
    elif name in TABLES:
        root = str(write_table(tmp_path / "table.tsv", [{**row, "image": encoded} for row in TABLES[name]]))
    else:
        root = DRAWN.get(name) or str(shared(ROOTS[name]))
    return BENCHMARKS[name].read(root)


def right(question: BenchmarkQuestion) -> str:
    return question.answer if isinstance(question.answer, str) else (question.answer or ("",))[0]


def numbers(scores: Mapping[str, Any]) -> list[float]:
    inner = [numbers(value) if isinstance(value, Mapping) else [value] for value in scores.values()]
    return [float(one) for some in inner for one in some if isinstance(one, int | float)]


def test_every_benchmark_is_tried() -> None:
    assert {*ROOTS, *DRAWN, *TABLES, *WRITERS} == set(BENCHMARKS)


def test_right_answers_score_higher_than_none(name: str, questions: list[BenchmarkQuestion]) -> None:
    known = [question for question in questions if question.answer is not None]
    best = BENCHMARKS[name].score(known, {question.id: right(question) for question in known})
    none = BENCHMARKS[name].score(known, {question.id: "" for question in known})
    # not all of them: some count what is no answer
    assert any(high > low for high, low in zip(numbers(best), numbers(none), strict=True))
    assert min(numbers(best) + numbers(none)) >= 0
    for scores in (best, none):
        assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_questions_have_distinct_ids_and_locations(questions: list[BenchmarkQuestion]) -> None:
    assert len({question.id for question in questions}) == len(questions) > 0
    assert all(question.where for question in questions)
    few = take(questions, 1)
    assert few[0] == questions[0]
    assert all(question.group == few[0].group for question in few)


def test_a_root_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises((BenchmarkError, ValueError, OSError)) as caught:
        BENCHMARKS[name].read(str(tmp_path / "nowhere"))
    assert "nowhere" in str(caught.value)
    assert "\n" not in str(caught.value)
