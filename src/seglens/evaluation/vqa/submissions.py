"""Files of answers for the servers that hold the right ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seglens.core.files import write_atomic
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion


@dataclass(frozen=True)
class Submission:
    """How answers are submitted: the file endings that the server takes, and the function that writes such a file."""

    endings: tuple[str, ...]
    put: Callable[[Path, Sequence[BenchmarkQuestion], Mapping[str, str]], None]
    otherwise: str = ""  # what to do for another ending

    def check(self, path: Path) -> None:
        """Raises BenchmarkError when no file of that name can be written."""
        if path.suffix not in self.endings:
            raise BenchmarkError(f"{path} must end in {' or '.join(self.endings)}{self.otherwise}")

    def write(self, path: Path, questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> None:
        """The file of all the answers. Raises BenchmarkError, and writes nothing, when one is missing."""
        self.check(path)
        missing = [question.id for question in questions if question.id not in answers]
        if missing:
            raise BenchmarkError(
                f"{len(missing)} of {len(questions)} questions have no answer, the first is {missing[0]!r}"
            )
        self.put(path, questions, answers)


def json_list(key: str, answer_key: str, clean: Callable[[str], str] = str.strip) -> Submission:
    """A JSON list of objects: the question's `key` from its record, and its answer under `answer_key`."""

    def put(path: Path, questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> None:
        rows = [{key: question.record[key], answer_key: clean(answers[question.id])} for question in questions]
        write_atomic(path, json.dumps(rows).encode())

    return Submission((".json",), put)
