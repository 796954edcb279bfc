"""Putting a benchmark's questions to a model, a line of JSON per answer as it comes, so that a stopped run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion, json_lines, read_json, table

Ask = Callable[[UInt8[np.ndarray, "h w 3"], str, int], str]  # image, question, max_new_tokens
IDS, SAID = ("id", "question_id", "index", "questionId", "image"), ("answer", "prediction", "text")


def take(questions: Sequence[BenchmarkQuestion], limit: int | None) -> list[BenchmarkQuestion]:
    """The first `limit` questions, and those that are judged together with them."""
    if limit is None:
        return list(questions)
    if limit < 1:
        raise BenchmarkError(f"got limit={limit}; need at least 1")
    first = questions[:limit]
    names, groups = {question.id for question in first}, {question.group for question in first if question.group}
    return [question for question in questions if question.id in names or question.group in groups]


def checked(questions: Sequence[BenchmarkQuestion], failed: dict[str, str]) -> list[BenchmarkQuestion]:
    """The questions that can be put to a model, as far as is known without decoding an image; `failed` is told of the
    others, by their ids. Raises BenchmarkError when there is none."""
    fit = list[BenchmarkQuestion]()
    for question in questions:
        try:
            question.check()
        except BenchmarkError as error:
            failed[question.id] = str(error)
        else:
            fit.append(question)
    _check_some(fit, failed)
    return fit


def _check_some(done: Collection[object], failed: Mapping[str, str]) -> None:
    """Raises BenchmarkError with the first failure when nothing else is there."""
    if failed and not done:
        raise BenchmarkError(next(iter(failed.values())))


def whole(questions: Sequence[BenchmarkQuestion], failed: Mapping[str, str]) -> list[BenchmarkQuestion]:
    """The questions that can be scored: without those that failed, and those that are judged together with them."""
    groups = {question.group for question in questions if question.id in failed and question.group}
    return [question for question in questions if question.id not in failed and question.group not in groups]


def run(
    ask: Ask,
    questions: Sequence[BenchmarkQuestion],
    max_new_tokens: int,
    out: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    track: Callable[[Sequence[BenchmarkQuestion]], Iterable[BenchmarkQuestion]] = iter,
    failed: dict[str, str] | None = None,
) -> dict[str, str]:
    """The model's answers by question id. `ask` is `Backbone.generate`.

    With `out` each answer is written as it comes, and questions answered there are not asked again. `settings` (what
    was asked of whom) and the prompts must be those of the file. Raises BenchmarkError before the first question when
    an image is missing or the file is another run's, and when a question cannot be answered. With `failed` such a
    question ends nothing, unless there is no other: it is told there, by its id."""
    if failed is None:
        for question in questions:
            question.check()
    fit = questions if failed is None else checked(questions, failed)
    file = AnswerFile(out, {**(settings or {}), "max_new_tokens": max_new_tokens}) if out is not None else None
    answers = file.answers(questions) if file is not None else {}
    for question in track([question for question in fit if question.id not in answers]):
        try:
            said = _said_of(ask, question, max_new_tokens)
        except BenchmarkError as error:
            if failed is None:
                raise
            failed[question.id] = str(error)
        else:
            answers[question.id] = said
            if file is not None:
                file.add(question, said)
    _check_some(answers, failed or {})
    return answers


def _said_of(ask: Ask, question: BenchmarkQuestion, max_new_tokens: int) -> str:
    image = question.picture()
    try:
        return ask(image, question.prompt, max_new_tokens)
    except ValueError as error:
        raise BenchmarkError(f"{question.where}: {error}") from error


class AnswerFile:
    """A file of answers that a kill can only cut short: the first line says whose run it is, a line is trusted once its
    end is there, and what stands after the last line end is thrown away.

    Raises BenchmarkError, and leaves the file as it is, when it is no such file or that of other settings."""

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path, self.settings = path, json.loads(json.dumps(settings))
        held = path.read_bytes() if path.is_file() else b""
        whole = held.rfind(b"\n") + 1
        self._check_run(held)
        if whole < len(held):
            os.truncate(path, whole)
        if not whole:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"run": self.settings})

    def answers(self, questions: Sequence[BenchmarkQuestion]) -> dict[str, str]:
        """What the file answers of these questions.

        Raises BenchmarkError when a line is damaged, or when a question was put in other words."""
        prompts, found = {question.id: question.prompt for question in questions}, dict[str, str]()
        for number, row in list(json_lines(self.path))[1:]:
            where = f"{self.path}:{number}"
            name, said = _answer(row, where)
            if name in prompts:
                if row.get("prompt") != prompts[name]:
                    raise BenchmarkError(f"{where}: {name!r} was another question there; choose another --out")
                _put(found, name, said, where)
        return found

    def add(self, question: BenchmarkQuestion, said: str) -> None:
        """Write an answer, on the disk when this returns."""
        self._append({"id": question.id, "prompt": question.prompt, "answer": said})

    def _append(self, row: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write((json.dumps(row) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    def _check_run(self, held: bytes) -> None:
        first, end, _ = held.partition(b"\n")
        start = json.dumps({"run": {}}).encode()[:-2]
        if not end and first[: len(start)] == start[: len(first)]:
            return  # empty, or killed while it wrote its first line
        try:
            run = json.loads(first)["run"]
        except (ValueError, KeyError, TypeError):
            raise BenchmarkError(
                f"{self.path}:1: not the answers of a run; choose another --out, or score them with --answers"
            ) from None
        if run != self.settings:
            raise BenchmarkError(
                f"{self.path} holds the answers of {_told(run)}; this run is {_told(self.settings)}: "
                "choose another --out"
            )


def read_answers(path: Path, questions: Sequence[BenchmarkQuestion]) -> dict[str, str]:
    """Answers from a file: JSON lines (id and answer, as a run writes them), a JSON object id -> answer (MMMU's
    outputs), a JSON list of objects (the results of VQA, GQA and VizWiz), or a .tsv or .csv with the columns index and
    prediction (VLMEvalKit's). Each id once, and a question's."""
    known, found = {question.id for question in questions}, dict[str, str]()
    for where, name, said in _said(path):
        if name not in known:
            raise BenchmarkError(f"{where}: no question has the id {name!r}; the first is {questions[0].id!r}")
        _put(found, name, said, where)
    return found


def _said(path: Path) -> Iterable[tuple[str, str, str]]:
    """Where, id and answer of each."""
    if path.suffix == ".json":
        value = read_json(path)
        rows = _rows_of(value, path)
    elif path.suffix in (".tsv", ".csv"):
        found = table(path, ("index", "prediction"), "\t" if path.suffix == ".tsv" else ",")
        rows = [(row, f"{path}:{number}") for number, row in found]
    else:
        rows = [(row, f"{path}:{number}") for number, row in json_lines(path) if "run" not in row]
    for row, where in rows:
        yield where, *_answer(row, where)


def _rows_of(value: Any, path: Path) -> list[tuple[dict[str, Any], str]]:
    if isinstance(value, dict):
        return [({"id": name, "answer": said}, f"{path}: {name}") for name, said in value.items()]
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return [(row, f"{path}: [{number}]") for number, row in enumerate(value)]
    raise BenchmarkError(
        f"{path}: got a {type(value).__name__}; need an object id -> answer, a list of objects, or a .jsonl"
    )


def _answer(row: Mapping[str, Any], where: str) -> tuple[str, str]:
    name = next((row[key] for key in IDS if key in row), None)
    said = next((row[key] for key in SAID if key in row), None)
    if not isinstance(name, str | int) or not isinstance(said, str):
        raise BenchmarkError(f"{where}: need an id and an answer in words; the fields are {', '.join(row) or 'none'}")
    return str(name), said


def _put(found: dict[str, str], name: str, said: str, where: str) -> None:
    if name in found:
        raise BenchmarkError(f"{where}: {name!r} is answered twice; keep one")
    found[name] = said


def _told(settings: Any) -> str:
    return (
        ", ".join(f"{key}={value}" for key, value in settings.items()) if isinstance(settings, dict) else str(settings)
    )
