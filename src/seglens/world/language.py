"""Sentences about a scene: requests for masks, questions with short answers, captions and intents.

Everything is templated from what the scene knows to be true; `requests` and `questions` hold the sentences.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TypeVar

from seglens.world.concepts import CONCEPTS, GROUPS, PART_NAMES
from seglens.world.draw import PALETTE
from seglens.world.phrases import SIDES, Facts, Query, Question, article
from seglens.world.questions import VQA_KINDS, VQA_WEIGHTS, Questions
from seglens.world.requests import NUMBERS, QUERY_KINDS, QUERY_WEIGHTS, REQUESTS, Requests
from seglens.world.world import Scene, World

__all__ = [
    "QUERY_KINDS",
    "VQA_KINDS",
    "Query",
    "Question",
    "Speaker",
    "lesson",
    "speaker",
    "vocabulary",
]

T = TypeVar("T")
INTENT = "which intent is this, dialogue, segmentation or followup: {}"
FOLLOW_UPS = (
    "what colour is it?",
    "is it large or small?",
    "what is it?",
    "what is it used for?",
    "is it on the left?",
    "tell me more about it.",
    "what is next to it?",
    "why did you mark it?",
    "are you sure that is it?",
    "where is it?",
)
CAPTION_REQUESTS = ("describe the picture.", "what do you see?", "what is in the picture?")
EXTRA_WORDS = """
a an the yes no nothing there is no such thing and of , . ? : user assistant 0 1 2 3 4 5 6 7 8 9 large small
""".strip()
# words of the sentences that are built with f-strings
OTHER_WORDS = """
all every each only piece clothes clothing foods animals vehicles tools things thing from nature home object
big little larger smaller largest smallest leftmost rightmost topmost lowest on at in top middle bottom left center
right or above below how many are count do you see does picture show what colour which has kind part parts organ organs
something that thing object one i could would can me my it its with without not if when who use used using his her
""".strip()


class Speaker:
    """True sentences about one scene. All choices come from `rng`; with `train` held-out phrasings are not used."""

    def __init__(self, scene: Scene, rng: random.Random, train: bool):
        self.rng = rng
        facts = Facts(scene, rng, train)
        self.things, self._requests, self._questions = facts.things, Requests(facts), Questions(facts)

    def query(self, kind: str) -> Query | None:
        """A request for a mask of this kind, or None when the scene offers none."""
        return self._requests.make(kind)

    def phrase(self) -> str:
        """The target of a request for a mask, as a phrase: "the red cat"."""
        kinds, weights = list(QUERY_WEIGHTS), list(QUERY_WEIGHTS.values())
        while (phrase := self._requests.phrase(self.rng.choices(kinds, weights)[0])) is None:
            pass
        return phrase

    def queries(self, count: int) -> list[Query]:
        """`count` requests."""
        return self._several(count, QUERY_WEIGHTS, self.query)

    def question(self, kind: str) -> Question | None:
        """A question of this kind with its answer, or None when the scene offers none."""
        return self._questions.make(kind)

    def questions(self, count: int) -> list[Question]:
        """`count` questions with their answers."""
        return self._several(count, VQA_WEIGHTS, self.question)

    def _several(self, count: int, weights: Mapping[str, float | int], make: Callable[[str], T | None]) -> list[T]:
        """`count` sentences; kinds are drawn first, so that common kinds do not crowd out rare ones."""
        sentences: list[T] = []
        while len(sentences) < count:
            sentence = make(self.rng.choices(list(weights), list(weights.values()))[0])
            if sentence is not None:
                sentences.append(sentence)
        return sentences

    # What follows is only for training the language model.

    def caption(self) -> Question:
        """The things of the scene, from left to right."""
        order = sorted(self.things, key=lambda t: t.centre[0])
        things = ", ".join(article(f"{t.colour} {t.name}") for t in order)
        return Question("caption", self.rng.choice(CAPTION_REQUESTS), things)

    def intent(self) -> Question:
        """The three routes of Algorithm S1: dialogue, segmentation, followup."""
        label = self.rng.choice(("dialogue", "segmentation", "followup"))
        if label == "segmentation":
            text = self._request(("what ", "where ")).text  # a bare question is dialogue: a request asks for a mask
        elif label == "followup":
            text = self.rng.choice(FOLLOW_UPS)
        else:
            text = self.questions(1)[0].text if self.rng.random() < 0.8 else self.rng.choice(CAPTION_REQUESTS)
        return Question("intent", INTENT.format(text), label)

    def reply(self) -> Question:
        """The answer in words to a request for a mask: it teaches the model to attend to the target."""
        query = self._request(("what ",))  # "what barks?" is also a question, with another answer
        return Question("reply", query.text, query.reply)

    def _request(self, barred: tuple[str, ...]) -> Query:
        while (query := self.queries(1)[0]).text.startswith(barred):
            pass
        return query


def speaker(world: World, index: int, scene: Scene | None = None) -> Speaker:
    """The sentences of scene `index`: as reproducible as its pixels."""
    rng = random.Random(f"{world.split} {world.seed} {index}")
    return Speaker(scene if scene is not None else world.scene(index), rng, world.split == "train")


def lesson(one: Speaker, count: int) -> list[Question]:
    """What the language model learns about one scene: answers, replies, sometimes a caption or an intent."""
    questions: list[Question] = []
    while len(questions) < count:
        draw = one.rng.random()
        make: Callable[[], Question]
        if draw < 0.05:
            make = one.caption
        elif draw < 0.10:
            make = one.intent
        elif draw < 0.42:
            make = one.reply
        else:
            make = lambda: one.questions(1)[0]  # noqa: E731
        questions.append(make())
    return questions


def vocabulary() -> list[str]:
    """Every word of the world's sentences, sorted."""
    texts: list[str] = [EXTRA_WORDS, INTENT, *REQUESTS, *FOLLOW_UPS, *CAPTION_REQUESTS]
    texts += [*PALETTE, *PART_NAMES, *GROUPS, *SIDES, *NUMBERS]
    for concept in CONCEPTS:
        texts += [concept.name, concept.plural, *concept.clues, concept.held_out]
        texts += [clue for clues in concept.parts.values() for clue in clues]
    texts += [OTHER_WORDS]
    cleaned = " ".join(texts).replace("{name}", " ").replace("{}", " ")
    for mark in ",.?:":
        cleaned = cleaned.replace(mark, f" {mark} ")
    return sorted(set(cleaned.lower().split()))
