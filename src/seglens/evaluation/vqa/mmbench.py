"""MMBench (Liu et al., arXiv 2307.06281): multiple choice with the choices rotated; a question is solved when every
rotation is.

Files: the official .tsv (index, question, hint, A to D, answer, category, l2-category, image as base64). Rotation k of
question i has the index 1e6 k + i. Rotations of a file that has none are made by `read_circular`."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seglens.core.files import write_atomic
from seglens.evaluation.vqa.answers import choice_prompt, infer_letter, mean, paired
from seglens.evaluation.vqa.choices import ChoiceRow, only_table, rows
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion, distinct
from seglens.evaluation.vqa.submissions import Submission

DELIMITERS = {".tsv": "\t", ".csv": ","}
STEP = 1_000_000  # between a question's index and that of its next rotation


def read(root: str) -> list[BenchmarkQuestion]:
    """The questions of a table, or of the only one in a folder."""
    path = only_table(root)
    return distinct([_question(row) for row in rows(path, ("category",))], str(path))


def read_circular(root: str) -> list[BenchmarkQuestion]:
    """The same with all the rotations of every question: those of the file, or made here where it has none."""
    questions = read(root)
    sizes = _sizes(questions)
    return [turn for q in questions for turn in (_rotations(q) if sizes[q.group] == 1 else (q,))]


def _question(row: ChoiceRow) -> BenchmarkQuestion:
    index = row.fields["index"]
    if not index.isdigit():
        raise BenchmarkError(f"{row.where}: need a whole number")
    if not row.choices:
        raise BenchmarkError(f"{row.where}: no choice; need columns A, B, ... with text")
    return BenchmarkQuestion(
        index,
        choice_prompt(row.fields["question"], row.choices, row.fields.get("hint", "")),
        row.where,
        row.answer,
        (row.image,),
        row.choices,
        str(int(index) % STEP),
        row.fields.get("category", ""),
        row.fields.get("l2-category", ""),
        record={k: v for k, v in row.fields.items() if k != "image"},
    )


def _rotations(question: BenchmarkQuestion) -> Iterator[BenchmarkQuestion]:
    """Each choice has each letter once: in rotation k, letter j has the text of letter j + k."""
    letters, texts = list(question.choices), list(question.choices.values())
    for turn in range(len(letters)):
        choices = dict(zip(letters, texts[turn:] + texts[:turn], strict=True))
        right = question.answer
        if isinstance(right, str):
            right = letters[(letters.index(right) - turn) % len(letters)]
        index = str(int(question.id) + STEP * turn)
        record = {**question.record, **choices, "index": index, **({"answer": right} if isinstance(right, str) else {})}
        prompt = choice_prompt(record["question"], choices, record.get("hint", ""))
        yield replace(question, id=index, prompt=prompt, answer=right, choices=choices, record=record)


def _sizes(questions: Sequence[BenchmarkQuestion]) -> dict[str, int]:
    sizes: defaultdict[str, int] = defaultdict(int)
    for question in questions:
        sizes[question.group] += 1
    return sizes


def score(questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> dict[str, Any]:
    """VanillaEval over the unrotated questions, and CircularEval over their groups where every question has a rotation
    per choice (else None); by category and by l2-category the stricter one available. Accuracies, 0 to 1."""
    groups: defaultdict[str, list[bool]] = defaultdict(list)
    first: dict[str, tuple[BenchmarkQuestion, bool]] = {}
    for question, reply in paired(questions, answers):
        hit = infer_letter(reply, question.choices) == question.answer
        groups[question.group].append(hit)
        if question.id == question.group:
            first[question.group] = question, hit
    lost = next((question for question in questions if question.group not in first), None)
    if lost is not None:
        raise BenchmarkError(f"{lost.where}: a rotation of question {lost.group}, which is not there")
    circular = all(len(groups[key]) == len(question.choices) for key, (question, _) in first.items())
    hits = {key: all(groups[key]) if circular else hit for key, (_, hit) in first.items()}
    return {
        "questions": len(first),
        "vanilla": mean([hit for _, hit in first.values()]),
        "circular": mean(list(hits.values())) if circular else None,
        "by_category": _by({key: question.category for key, (question, _) in first.items()}, hits),
        "by_area": _by({key: question.area for key, (question, _) in first.items()}, hits),
    }


def _by(names: Mapping[str, str], hits: Mapping[str, bool]) -> dict[str, float]:
    named: defaultdict[str, list[bool]] = defaultdict(list)
    for key, name in names.items():
        if name:
            named[name].append(hits[key])
    return {name: mean(values) for name, values in sorted(named.items())}


def _write_table(path: Path, questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> None:
    text = io.StringIO()
    rows = [{**question.record, "prediction": answers[question.id]} for question in questions]
    writer = csv.DictWriter(text, list(rows[0]), delimiter=DELIMITERS[path.suffix], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


# every column but the image, and `prediction`; the server takes .xlsx, .tsv and .csv
SUBMISSION = Submission(tuple(DELIMITERS), _write_table, " (for .xlsx open one of them in a spreadsheet and save it)")
