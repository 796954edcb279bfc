"""Files of answers: those that a run writes line by line, so that it goes on after a stop, and those of others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seglens.evaluation.vqa.files import json_lines, read_json, table
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion

ID_KEYS, ANSWER_KEYS = ("id", "question_id", "index", "questionId", "image"), ("answer", "prediction", "text")


class AnswerFile:
    """A file of answers that a kill can only cut short: the first line holds the settings of the run, a line counts
    when it has its line end, and what follows the last line end is removed.

    Raises BenchmarkError, and leaves the file as it is, when it is no such file or that of other settings."""

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path, self.settings = path, json.loads(json.dumps(settings))
        content = path.read_bytes() if path.is_file() else b""
        whole = content.rfind(b"\n") + 1
        self._check_run(content)
        if whole < len(content):
            os.truncate(path, whole)
        if not whole:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"run": self.settings})

    def answers(self, questions: Sequence[BenchmarkQuestion]) -> dict[str, str]:
        """The answers in the file to these questions.

        Raises BenchmarkError when a line is damaged, or when a question was asked in other words."""
        prompts, answers = {question.id: question.prompt for question in questions}, dict[str, str]()
        for number, row in list(json_lines(self.path))[1:]:
            where = f"{self.path}:{number}"
            name, reply = _answer(row, where)
            if name in prompts:
                if row.get("prompt") != prompts[name]:
                    raise BenchmarkError(f"{where}: {name!r} was another question there; choose another --out")
                _put(answers, name, reply, where)
        return answers

    def add(self, question: BenchmarkQuestion, reply: str) -> None:
        """Write an answer, on the disk when this returns."""
        self._append({"id": question.id, "prompt": question.prompt, "answer": reply})

    def _append(self, row: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write((json.dumps(row) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    def _check_run(self, content: bytes) -> None:
        first, end, _ = content.partition(b"\n")
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
                f"{self.path} holds the answers of {_in_words(run)}; this run is {_in_words(self.settings)}: "
                "choose another --out"
            )


def read_answers(path: Path, questions: Sequence[BenchmarkQuestion]) -> dict[str, str]:
    """Answers from a file: JSON lines (id and answer, as a run writes them), a JSON object id -> answer (MMMU's
    outputs), a JSON list of objects (the results of VQA, GQA and VizWiz), or a .tsv or .csv with the columns index and
    prediction (VLMEvalKit's). Each id once, and a question's."""
    known, answers = {question.id for question in questions}, dict[str, str]()
    for where, name, reply in _rows(path):
        if name not in known:
            raise BenchmarkError(f"{where}: no question has the id {name!r}; the first is {questions[0].id!r}")
        _put(answers, name, reply, where)
    return answers


def _rows(path: Path) -> Iterable[tuple[str, str, str]]:
    """Where it is, id and answer of each."""
    if path.suffix == ".json":
        rows = _json_rows(read_json(path), path)
    elif path.suffix in (".tsv", ".csv"):
        table_rows = table(path, ("index", "prediction"), "\t" if path.suffix == ".tsv" else ",")
        rows = [(row, f"{path}:{number}") for number, row in table_rows]
    else:
        rows = [(row, f"{path}:{number}") for number, row in json_lines(path) if "run" not in row]
    for row, where in rows:
        yield where, *_answer(row, where)


def _json_rows(value: Any, path: Path) -> list[tuple[dict[str, Any], str]]:
    if isinstance(value, dict):
        return [({"id": name, "answer": reply}, f"{path}: {name}") for name, reply in value.items()]
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return [(row, f"{path}: [{number}]") for number, row in enumerate(value)]
    raise BenchmarkError(
        f"{path}: got a {type(value).__name__}; need an object id -> answer, a list of objects, or a .jsonl"
    )


def _answer(row: Mapping[str, Any], where: str) -> tuple[str, str]:
    name = next((row[key] for key in ID_KEYS if key in row), None)
    reply = next((row[key] for key in ANSWER_KEYS if key in row), None)
    if not isinstance(name, str | int) or not isinstance(reply, str):
        raise BenchmarkError(f"{where}: need an id and an answer in words; the fields are {', '.join(row) or 'none'}")
    return str(name), reply


def _put(answers: dict[str, str], name: str, reply: str, where: str) -> None:
    if name in answers:
        raise BenchmarkError(f"{where}: {name!r} is answered twice; keep one")
    answers[name] = reply


def _in_words(settings: Any) -> str:
    return (
        ", ".join(f"{key}={value}" for key, value in settings.items()) if isinstance(settings, dict) else str(settings)
    )
