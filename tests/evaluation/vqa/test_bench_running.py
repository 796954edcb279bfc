"""A run writes answers as they come, goes on where it stopped, and trusts nothing that it did not finish."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seglens.evaluation.vqa import BenchmarkQuestion, mme, read_answers, run, take
from seglens.evaluation.vqa.questions import BenchmarkError, FileImage
from shared import shared

SETTINGS = {"benchmark": "mme", "model": "counter"}


class Counter:
    """A model that answers with the number of the call; its power may fail."""

    def __init__(self, fails_at: int | None = None):
        self.calls, self.fails_at = 0, fails_at

    def __call__(self, image: np.ndarray, question: str, max_new_tokens: int) -> str:
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        self.calls += 1
        return f'{self.calls}: "{question}"\nÜ {max_new_tokens} {image.shape[2]}'


@pytest.fixture(scope="module")
def questions() -> list[BenchmarkQuestion]:
    return mme.read(str(shared("general/mme/mini")))


def test_a_stopped_run_goes_on(questions: list[BenchmarkQuestion], tmp_path: Path) -> None:
    out = tmp_path / "made" / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(Counter(fails_at=5), questions, 8, out, SETTINGS)
    second = Counter()
    answers = run(second, questions, 8, out, SETTINGS)
    assert second.calls == len(questions) - 5
    assert list(answers) == [question.id for question in questions]
    assert answers[questions[5].id].startswith("1: ")
    assert read_answers(out, questions) == answers
    third = Counter()
    assert run(third, questions, 8, out, SETTINGS) == answers
    assert third.calls == 0
    assert json.loads(out.read_text().splitlines()[0]) == {"run": {**SETTINGS, "max_new_tokens": 8}}


def test_a_smaller_run_is_the_start_of_a_larger_one(questions: list[BenchmarkQuestion], tmp_path: Path) -> None:
    run(Counter(), take(questions, 3), 8, tmp_path / "a.jsonl", SETTINGS)
    rest = Counter()
    run(rest, questions, 8, tmp_path / "a.jsonl", SETTINGS)
    assert rest.calls == len(questions) - 4  # the third question brought its image's other one


@pytest.mark.slow
def test_a_kill_at_any_byte_leaves_nothing_wrong(questions: list[BenchmarkQuestion], tmp_path: Path) -> None:
    """The file cut after every byte: what is kept is true, what is lost is asked again, the file ends up whole."""
    few, path = questions[:2], tmp_path / "a.jsonl"
    answers = run(Counter(), few, 8, path, SETTINGS)
    held = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(held) if byte == ord("\n")]
    for cut in range(len(held) + 1):
        path.write_bytes(held[:cut])
        model = Counter()
        again = run(model, few, 8, path, SETTINGS)
        stored = max(sum(end <= cut for end in ends) - 1, 0)
        assert model.calls == len(few) - stored
        assert list(again) == list(answers)
        for question in few[:stored]:
            assert again[question.id] == answers[question.id]
        assert read_answers(path, few) == again


def test_another_runs_file_is_left_alone(questions: list[BenchmarkQuestion], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    run(Counter(), questions[:2], 8, path, SETTINGS)
    held = path.read_bytes()

    def refused(
        complaint: str, run_questions: list[BenchmarkQuestion] = questions, tokens: int = 8, **other: str
    ) -> None:
        before, model = path.read_bytes(), Counter()
        with pytest.raises(BenchmarkError, match=complaint):
            run(model, run_questions, tokens, path, {**SETTINGS, **other})
        assert path.read_bytes() == before
        assert model.calls == 0

    refused(r"a.jsonl holds the answers of .*model=counter.*; this run is .*model=other", model="other")
    refused(r"max_new_tokens=8; this run is .*max_new_tokens=9: choose another --out", tokens=9)
    other = [BenchmarkQuestion(questions[0].id, "In other words?", "f:1", "yes", questions[0].images)]
    refused(r"a.jsonl:2: 'count/.*' was another question there", run_questions=other)
    lines = held.splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{broken\n" + lines[1])
    refused(r"a.jsonl:2: not JSON")
    path.write_bytes(held + lines[1])
    refused(r"a.jsonl:4: 'count/.*' is answered twice; keep one")
    for foreign in (b'{\n "validation_Art_1": "A"\n}', b"holiday plans", b'{"a": 1}\n', b"\xff\xfe\x00", b"[]\nx"):
        path.write_bytes(foreign)
        refused(r"a.jsonl:1: not the answers of a run")


def test_nothing_is_asked_before_every_image_is_there(questions: list[BenchmarkQuestion], tmp_path: Path) -> None:
    lost = BenchmarkQuestion("x", "Is it?", "color.txt:9", "yes", (FileImage(tmp_path / "no.jpg"),))
    model = Counter()
    with pytest.raises(BenchmarkError, match=r"color.txt:9: the image '.*no.jpg' does not exist"):
        run(model, [*questions, lost], 8, tmp_path / "a.jsonl", SETTINGS)
    assert model.calls == 0
    assert not (tmp_path / "a.jsonl").exists()


def test_a_refusal_of_the_model_names_the_question(questions: list[BenchmarkQuestion]) -> None:
    def refuse(image: np.ndarray, question: str, max_new_tokens: int) -> str:
        raise ValueError("got a question of 600 tokens; at most 512 are read")

    with pytest.raises(BenchmarkError, match=r"\.txt:1: got a question of 600 tokens"):
        run(refuse, questions, 8)


def test_taking_a_few_keeps_groups_whole(questions: list[BenchmarkQuestion]) -> None:
    assert take(questions, None) == questions
    assert take(questions, 3) == questions[:4]
    assert take(questions, 4) == questions[:4]
    assert take(questions, 99) == questions
    with pytest.raises(BenchmarkError, match="limit=0; need at least 1"):
        take(questions, 0)


def questions_of(*ids: str) -> list[BenchmarkQuestion]:
    return [BenchmarkQuestion(name, "?", "f", "A") for name in ids]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"1": "A", "2": "say \\"B\\""}'),
        ("a.jsonl", '{"question_id": 1, "text": "A"}\n\n{"id": "2", "answer": "say \\"B\\""}'),
        ("a.tsv", 'index\tquestion\tprediction\n1\tx\tA\n2\t"x\ny"\t"say ""B"""\n'),
        ("a.csv", '\ufeffindex,prediction\r\n1,A\r\n2,"say ""B"""\r\n'),
    ],
)
def test_answers_of_others(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_answers(tmp_path / name, questions_of("1", "2")) == {"1": "A", "2": 'say "B"'}


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.json", '{"3": "A"}', r"a.json: 3: no question has the id '3'; the first is '1'"),
        ("a.json", '["A"]', r"a.json: got a list; need an object"),
        ("a.json", '{"1": 5}', r"a.json: 1: need an id and an answer in words"),
        ("a.jsonl", '{"id": "1", "answer": "A"}\n{"id": "1", "answer": "B"}\n', r"a.jsonl:2: '1' is answered twice"),
        ("a.jsonl", '{"id": "1", "answer": "A"}\n{"id": "2", "ans', r"a.jsonl:2: not JSON"),
        ("a.jsonl", '{"name": "1", "answer": "A"}\n', r"a.jsonl:1: need an id and an answer in words; the fields"),
        ("a.tsv", "index\tanswer\n1\tA\n", r"a.tsv:1: no column prediction"),
    ],
)
def test_bad_answers_of_others(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BenchmarkError, match=complaint):
        read_answers(tmp_path / name, questions_of("1", "2"))
