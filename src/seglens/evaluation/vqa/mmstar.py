"""MMStar (Chen et al., arXiv 2403.20330): 1,500 multiple-choice questions that need the image, 250 of each of six
categories.

Files: MMStar.tsv (index, question, answer, category, l2_category, image as base64), the choices inside the question as
"Options: A: ..., B: ...", or in columns A to D. The prompt is VLMEvalKit's for LLaVA."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from seglens.evaluation.vqa.answers import choice_prompt, infer_letter, mean, mmstar_hit, paired
from seglens.evaluation.vqa.choices import ChoiceRow, only_table, rows
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion, distinct

LETTERS = "ABCD"
AREAS = ("l2_category", "l2-category")
# a letter that opens the list, a line, or follows a comma
CHOICE = re.compile(r"(?:^|\n|,\s)\s*\(?([A-D])(?:\)|:|\.)\s*", re.MULTILINE)


def read(root: str) -> list[BenchmarkQuestion]:
    """The questions of a table, or of the only one in a folder."""
    path = only_table(root)
    questions = rows(path, ("answer", "category"))
    if questions and not any(name in questions[0].fields for name in AREAS):
        raise BenchmarkError(
            f"{path} is no table of MMStar: it has no column {' or '.join(AREAS)}; MMBench's is read by mmbench"
        )
    return distinct([_question(row) for row in questions], str(path))


def _question(row: ChoiceRow) -> BenchmarkQuestion:
    if row.answer is not None and row.answer not in LETTERS:
        raise BenchmarkError(f"{row.where}: the answer is {row.answer!r}; need one of {', '.join(LETTERS)}")
    text, fields = row.fields["question"], row.fields
    return BenchmarkQuestion(
        fields["index"],
        choice_prompt(text, row.choices),
        row.where,
        row.answer,
        (row.image,),
        row.choices or choices_in(text),
        category=fields.get("l2_category") or fields.get("l2-category", ""),
        area=fields.get("category", ""),
    )


def choices_in(question: str) -> dict[str, str]:
    """The choices that a question lists after "Options:" or "Choices:"; A to D without text where it lists none."""
    listed = re.split(r"(?:Options|Choices):", question)[-1].strip()
    parts = CHOICE.split(listed)[1:]
    choices = {letter: text.strip().rstrip(",") for letter, text in zip(parts[::2], parts[1::2], strict=True)}
    return choices if list(choices) == list(LETTERS[: len(choices)]) and choices else dict.fromkeys(LETTERS, "")


def score(questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> dict[str, Any]:
    """Accuracy, 0 to 1, by MMStar's own rule, over all and by category; `vlmevalkit` is the accuracy when the letter is
    found by VLMEvalKit's exact matching, as on leaderboards."""
    hits: defaultdict[str, list[bool]] = defaultdict(list)
    areas: defaultdict[str, list[bool]] = defaultdict(list)
    matched: list[bool] = []
    for question, reply in paired(questions, answers):
        hit = mmstar_hit(reply, str(question.answer))
        hits[question.category].append(hit)
        areas[question.area].append(hit)
        matched.append(infer_letter(reply, _searchable(question.choices)) == question.answer)
    return {
        "questions": len(questions),
        "average": mean([hit for values in areas.values() for hit in values]),
        "vlmevalkit": mean(matched),
        "by_area": {name: mean(values) for name, values in sorted(areas.items())},
        "by_category": {name: mean(values) for name, values in sorted(hits.items())},
    }


def _searchable(choices: Mapping[str, str]) -> Mapping[str, str]:
    """Choices by texts to search for; an unknown text is found nowhere, not everywhere."""
    return {letter: text or "\0" for letter, text in choices.items()}
