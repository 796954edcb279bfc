"""Short answers against those of ten people: how the evaluation code of VQA, VizWiz and EvalAI maps two wordings of
an answer to one text, and how much an answer counts.

Facts from GT-Vision-Lab/VQA (vqaEval.py), VizWiz's evaluation code and MMF's EvalAIAnswerProcessor, which LLaVA and
InternVL score VQAv2, OK-VQA, TextVQA and VizWiz with. Some copies of the first two write curly apostrophes into
contractions, which no answer of a person has; here all are straight."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seglens.evaluation.vqa.answers import mean, paired
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion

ENOUGH = 3  # an answer that this many people give is fully right
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
THOUSANDS = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
MOST_PERIODS = 32  # both codes pass re.UNICODE, which is 32, where `sub` takes a count
ARTICLES = ("a", "an", "the")
DIGITS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
WITH_APOSTROPHES = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _lacking_one(word: str) -> list[str]:
    """The word without one of its apostrophes, for each of them."""
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {short: word for word in WITH_APOSTROPHES.split() for short in _lacking_one(word)} | {
    "somebody'd": "somebodyd"
}


def without_punctuation(text: str) -> str:
    """Each mark is removed where it stands beside a space anywhere in the text, or the text has a number such as
    1,000; else it becomes a space. A period stays only before a digit."""
    joined = THOUSANDS.search(text) is not None
    changed = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        changed = changed.replace(mark, "" if beside_space or joined else " ")
    return PERIOD.sub("", changed, count=MOST_PERIODS)


def in_plain_words(text: str) -> str:
    """In lower case, numbers to ten as digits, without articles, contractions with their apostrophe."""
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_form(reply: str) -> str:
    """A model's answer as VQA's and VizWiz's code compare it."""
    return in_plain_words(without_punctuation(reply.replace("\n", " ").replace("\t", " ").strip()))


def evalai_form(reply: str) -> str:
    """A model's or a person's answer as EvalAI's processor compares it."""
    text = reply.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return vqa_form(text)


def share(reply: str, people: Sequence[str]) -> float:
    """How right an answer is, 0 to 1: for each person left out in turn, a third per other person with the same answer,
    at most one; the mean over the persons. Both sides are in the form that is compared."""
    same = [person == reply for person in people]
    return sum(min(1.0, (sum(same) - own) / ENOUGH) for own in same) / len(people)


def vqa_accuracy(reply: str, people: Sequence[str]) -> float:
    """VQA's own rule: people's answers lose their punctuation where they are not all the same, and nothing else."""
    forms = [without_punctuation(person) for person in people] if len(set(people)) > 1 else people
    return share(vqa_form(reply), forms)


def vizwiz_accuracy(reply: str, people: Sequence[str]) -> float:
    """VizWiz's rule: people's answers as they stand."""
    return share(vqa_form(reply), people)


def evalai_accuracy(reply: str, people: Sequence[str]) -> float:
    """EvalAI's rule, TextVQA's own: both sides in one form."""
    return share(evalai_form(reply), [evalai_form(person) for person in people])


def answers_of(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The texts of a question's answers, given as texts or as objects with an `answer`."""
    field = row.get("answers")
    answers = [one.get("answer") if isinstance(one, dict) else one for one in field] if isinstance(field, list) else []
    texts = tuple(text for text in answers if isinstance(text, str))
    if not texts or len(texts) < len(answers):
        raise BenchmarkError(f"{where}: answers is {str(field)[:60]}; need a list of people's answers")
    return texts


def score(
    rule: Callable[[str, Sequence[str]], float], questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]
) -> dict[str, Any]:
    """The mean by `rule`, 0 to 1, over all questions and by kind of answer; `evalai` is the mean by EvalAI's rule."""
    shares: defaultdict[str, list[float]] = defaultdict(list)
    evalai = list[float]()
    for question, reply in paired(questions, answers):
        people = (question.answer,) if isinstance(question.answer, str) else question.answer or ()
        shares[question.category].append(rule(reply, people))
        evalai.append(evalai_accuracy(reply, people))
    return {
        "questions": len(questions),
        "accuracy": mean([one for values in shares.values() for one in values]),
        "evalai": mean(evalai),
        "by_category": {name: mean(values) for name, values in sorted(shares.items()) if name},
    }
