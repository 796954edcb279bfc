"""Asking a model the questions of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from seglens.evaluation.vqa.answer_files import AnswerFile
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion

Ask = Callable[[UInt8[np.ndarray, "h w 3"], str, int], str]  # image, question, max_new_tokens


def take(questions: Sequence[BenchmarkQuestion], limit: int | None) -> list[BenchmarkQuestion]:
    """The first `limit` questions, and those that are scored together with them."""
    if limit is None:
        return list(questions)
    if limit < 1:
        raise BenchmarkError(f"got limit={limit}; need at least 1")
    first = questions[:limit]
    names, groups = {question.id for question in first}, {question.group for question in first if question.group}
    return [question for question in questions if question.id in names or question.group in groups]


def checked(questions: Sequence[BenchmarkQuestion], failed: dict[str, str]) -> list[BenchmarkQuestion]:
    """The questions that a model can be asked, as far as is known without decoding an image; the others are added to
    `failed` with the reason, by their ids. Raises BenchmarkError when there is none."""
    usable = list[BenchmarkQuestion]()
    for question in questions:
        try:
            question.check()
        except BenchmarkError as error:
            failed[question.id] = str(error)
        else:
            usable.append(question)
    _check_some(usable, failed)
    return usable


def _check_some(done: Collection[object], failed: Mapping[str, str]) -> None:
    """Raises BenchmarkError with the first failure when nothing else remains."""
    if failed and not done:
        raise BenchmarkError(next(iter(failed.values())))


def whole(questions: Sequence[BenchmarkQuestion], failed: Mapping[str, str]) -> list[BenchmarkQuestion]:
    """The questions that can be scored: without those that failed, and those that are scored together with them."""
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

    With `out` each answer is written at once, and questions answered there are not asked again. `settings` (model and
    benchmark) and the prompts must be those of the file. Raises BenchmarkError before the first question when an image
    is missing or the file is another run's, and when a question cannot be answered. With `failed` such a question does
    not end the run, unless there is no other: the reason is added there, by its id."""
    if failed is None:
        for question in questions:
            question.check()
    usable = questions if failed is None else checked(questions, failed)
    file = AnswerFile(out, {**(settings or {}), "max_new_tokens": max_new_tokens}) if out is not None else None
    answers = file.answers(questions) if file is not None else {}
    for question in track([question for question in usable if question.id not in answers]):
        try:
            reply = _reply_to(ask, question, max_new_tokens)
        except BenchmarkError as error:
            if failed is None:
                raise
            failed[question.id] = str(error)
        else:
            answers[question.id] = reply
            if file is not None:
                file.add(question, reply)
    _check_some(answers, failed or {})
    return answers


def _reply_to(ask: Ask, question: BenchmarkQuestion, max_new_tokens: int) -> str:
    image = question.picture()
    try:
        return ask(image, question.prompt, max_new_tokens)
    except ValueError as error:
        raise BenchmarkError(f"{question.where}: {error}") from error
