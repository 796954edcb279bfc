"""TextVQA (Singh et al., arXiv 1904.08920): questions about what is written in a picture, each answered by ten people.

Files: `TextVQA_0.5.1_<split>.json`, images in `train_images/` (for train and val) or `test_images/`. The rule is
EvalAI's. Prompt and length of an answer are those of InternVL's evaluation; no words read by another model (OCR)
are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seglens.evaluation.vqa import consensus, files
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion, FileImage, distinct
from seglens.evaluation.vqa.submissions import json_list
from seglens.evaluation.vqa.vqa import SHORT

SUBMISSION = json_list("question_id", "answer")


def read(root: str) -> list[BenchmarkQuestion]:
    """The questions of a file, or of the validation split of a folder."""
    path = files.only_file(root, ["TextVQA_*_val.json"], "TextVQA")
    content = files.read_json(path)
    rows = content.get("data") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BenchmarkError(f"{path}: need an object with a list 'data', as TextVQA publishes it")
    return distinct([_question(row, path, number) for number, row in enumerate(rows)], str(path))


def _question(row: dict[str, Any], path: Path, number: int) -> BenchmarkQuestion:
    where = f"{path}: data[{number}]"
    name = row.get("question_id")
    if not isinstance(name, int):
        raise BenchmarkError(f"{where}: question_id is {name!r}; need a whole number")
    test = row.get("set_name") == "test"
    folder = files.folder_near(path, ("test_images",) if test else ("train_images", "train_val_images/train_images"))
    return BenchmarkQuestion(
        str(name),
        f"{files.text_of(row, 'question', where)} {SHORT}",
        where,
        consensus.answers_of(row, where) if row.get("answers") else None,
        (FileImage(folder / f"{files.text_of(row, 'image_id', where)}.jpg"),),
        record={"question_id": name},
    )


def score(questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> dict[str, Any]:
    """The mean by EvalAI's rule, 0 to 1."""
    scores = consensus.score(consensus.evalai_accuracy, questions, answers)
    return {name: scores[name] for name in ("questions", "accuracy")}
