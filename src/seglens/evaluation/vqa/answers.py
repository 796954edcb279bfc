"""From a model's reply to its answer: the rules of each benchmark for yes, no, a letter, a number or a phrase.

Facts from the official scorers: MME's eval_tool/calculation.py, POPE's evaluate.py, MMMU's eval/eval_utils.py, MMStar's
evaluate/mmstar.py and VLMEvalKit's vlmeval/utils/matching_util.py (exact matching, no LLM as a judge)."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion

REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
NO_CHOICE = "Z"  # VLMEvalKit's letter for an answer that means none of the choices
LAST_WORDS = 5  # a letter counts when it is one of them
TAILS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
CJK = re.compile("[\u4e00-\u9fff]")


def paired(questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> list[tuple[BenchmarkQuestion, str]]:
    """Each question with its answer. Raises BenchmarkError when one has none, or when its right answer is secret."""
    missing = [question.id for question in questions if question.id not in answers]
    if missing:
        raise BenchmarkError(
            f"{len(missing)} of {len(questions)} questions have no answer, the first is {missing[0]!r}; "
            "answer them all, or take fewer with --limit"
        )
    secret = next((question for question in questions if question.answer is None), None)
    if secret is not None:
        raise BenchmarkError(
            f"{secret.where}: the right answer is not public; write the file for the server with --submission"
        )
    return [(question, answers[question.id]) for question in questions]


def mean(values: Sequence[bool] | Sequence[float]) -> float:
    """Their mean, 0 where there is none."""
    return sum(values) / len(values) if values else 0.0


def choice_prompt(question: str, choices: Mapping[str, str], hint: str = "") -> str:
    """A multiple-choice question as VLMEvalKit asks LLaVA: hint, question, a line per choice, and the request for the
    letter alone, in Chinese where the question is."""
    text = "\n".join(
        [*([hint] if hint else []), question, *(f"{letter}. {choice}" for letter, choice in choices.items())]
    )
    request = (
        "请直接回答选项字母。"
        if CJK.search(text)
        else "Answer with the option's letter from the given choices directly."
    )
    return f"{text}\n{request}"


def mme_label(reply: str) -> str:
    """yes, no or other, by the first four characters."""
    start = reply.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def pope_label(reply: str) -> str:
    """no when the first sentence has the word No, no or not; yes otherwise."""
    words = reply.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def infer_letter(reply: str, choices: Mapping[str, str]) -> str | None:
    """VLMEvalKit's exact matching: the only letter named, near the end; or the only choice whose text is in a short
    answer; `Z` for a refusal; None when neither decides."""
    if any(refusal in reply for refusal in REFUSALS):
        return NO_CHOICE
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
    named = [letter for letter in choices if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - LAST_WORDS:
        return named[0]
    if not named and NO_CHOICE in words:
        return NO_CHOICE
    if len(reply) > 2 * sum(map(len, choices.values())):
        return None
    quoted = [letter for letter, text in choices.items() if text.lower() in reply.lower()]
    return quoted[0] if len(quoted) == 1 else None


def mmstar_hit(reply: str, right: str) -> bool:
    """MMStar's own rule: the answer begins with the right letter, bare or after "(", "option " or "the answer is "."""
    text = reply.lower().strip().replace("\n", " ")
    starts = ("", "(", "option ", "the answer is ")
    return any(text.startswith(start + right.lower().strip()) for start in starts)


def mmmu_letter(reply: str, choices: Mapping[str, str], rng: random.Random) -> str:
    """MMMU's rule: the last of "(A)", else of " A ", else, in more than five words, of a choice's text; else any."""
    for mark in ",.!?;:'":
        reply = reply.strip(mark)
    reply = f" {reply} "
    for form in ("({})", " {} "):
        at = {letter: reply.rfind(form.format(letter)) for letter in choices if form.format(letter) in reply}
        if at:
            return max(at, key=lambda letter: at[letter])
    if len(reply.split()) > 5:
        lower = reply.lower()
        at = {letter: lower.rfind(text.lower()) for letter, text in choices.items() if text.lower() in lower}
        if at:
            return max(at, key=lambda letter: at[letter])
    return rng.choice(list(choices))


def mmmu_phrases(reply: str) -> set[str | float]:
    """The content of an open answer: the shortest tail of each line after a word such as "is", the numbers in it, each
    normalised."""
    reply = reply.strip().strip(".").lower()
    phrases: list[str] = []
    rows = reply.split("\n")  # the official split at sentences looks for capitals, of which none are left here
    for number, row in enumerate(rows, 1):
        shortest = ""
        for word in (*TAILS, "=") if number == len(rows) else TAILS:
            tail = row.split(word)[-1].strip()
            if word in row and (not shortest or len(tail) < len(shortest)):
                shortest = tail
        if shortest and shortest not in set(":,.!?;'"):
            phrases.append(shortest)
    phrases = phrases or [reply]
    numbers = [number for text in phrases for pattern in NUMBERS for number in pattern.findall(text)]
    return {form for text in (*phrases, *numbers) for form in _forms(text)}


def mmmu_hit(reply: str, right: str | tuple[str, ...]) -> bool:
    """An open answer is right when a phrase of it contains the right words, or a number of it is the right number."""
    golds = [form for gold in ((right,) if isinstance(right, str) else right) for form in _forms(gold)]
    words = [gold for gold in golds if isinstance(gold, str)]
    return any(
        any(word in phrase for word in words) if isinstance(phrase, str) else phrase in golds
        for phrase in mmmu_phrases(reply)
    )


def _forms(text: str) -> list[str | float]:
    """A number to two places; words in lower case; a single character only beside a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
