"""GQA (Hudson and Manning, arXiv 1902.09506): questions made from scene graphs, one right answer each.

Files: `<split>_balanced_questions.json`, an object by question id, images as `images/<imageId>.jpg`. Scored are the
balanced questions, by exact match, as GQA's eval.py does; a model's answer loses its last period and its capitals
first, as in the evaluation of LLaVA and InternVL. Prompt and length of an answer are InternVL's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seglens.evaluation.vqa import files
from seglens.evaluation.vqa.answers import mean, paired
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion, FileImage, distinct
from seglens.evaluation.vqa.submissions import json_list
from seglens.evaluation.vqa.vqa import SHORT

PATTERNS = ("testdev_balanced_questions.json", "val_balanced_questions.json")
QUERY = "query"  # the structure of open questions; the others are answered by one of two words


def prediction(reply: str) -> str:
    """A model's answer as it is compared."""
    return reply.rstrip(".").lower()


SUBMISSION = json_list("questionId", "prediction", prediction)


def read(root: str) -> list[BenchmarkQuestion]:
    """The balanced questions of a file, or of a folder those of test-dev, else of val."""
    path = files.only_file(root, PATTERNS, "GQA")
    content = files.read_json(path)
    if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise BenchmarkError(f"{path}: need an object with a question per id, as GQA publishes it")
    folder = files.folder_near(path, ("images",))
    questions = [_question(name, row, path, folder) for name, row in content.items() if row.get("isBalanced", True)]
    return distinct(questions, str(path))


def _question(name: str, row: dict[str, Any], path: Path, folder: Path) -> BenchmarkQuestion:
    where = f"{path}: question {name}"
    types = row.get("types") or {}
    return BenchmarkQuestion(
        name,
        f"{files.text_of(row, 'question', where)} {SHORT}",
        where,
        row.get("answer") and files.text_of(row, "answer", where),
        (FileImage(folder / f"{files.text_of(row, 'imageId', where)}.jpg"),),
        category=str(types.get("semantic", "")),
        area=str(types.get("structural", "")),
        record={"questionId": name},
    )


def score(questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> dict[str, Any]:
    """The share of right answers, 0 to 1: over all, over binary and open questions, by structure and by meaning."""
    hits: defaultdict[str, list[bool]] = defaultdict(list)
    areas: defaultdict[str, list[bool]] = defaultdict(list)
    for question, reply in paired(questions, answers):
        hit = prediction(reply) == question.answer
        hits[question.category].append(hit)
        areas[question.area].append(hit)
    binary = [hit for name, values in areas.items() if name != QUERY for hit in values]
    return {
        "questions": len(questions),
        "accuracy": mean([hit for values in areas.values() for hit in values]),
        "binary": mean(binary),
        "open": mean(areas.get(QUERY, [])),
        "by_area": {name: mean(values) for name, values in sorted(areas.items())},
        "by_category": {name: mean(values) for name, values in sorted(hits.items())},
    }
