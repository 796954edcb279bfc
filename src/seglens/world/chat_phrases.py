"""Sentences that people may write about a scene to an assistant that segments, and their intent (Algorithm S1 of LENS).

They follow the grammar of `sayings.txt`; the scene fills its slots. Some are about things that are not in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files

from seglens.world.concepts import CONCEPTS
from seglens.world.concepts.base import Concept
from seglens.world.draw import PALETTE
from seglens.world.language import INTENT, Speaker, vocabulary
from seglens.world.phrases import Question, article

SEGMENTATION, DIALOGUE, FOLLOWUP = "segmentation", "dialogue", "followup"
INTENT_OF = {
    "explicit": SEGMENTATION,
    "implicit": SEGMENTATION,
    "mixed": SEGMENTATION,
    "plain": DIALOGUE,
    "followup": FOLLOWUP,
}
SHARES = {"explicit": 4, "implicit": 3, "mixed": 3, "plain": 7, "followup": 3}
# The ends of sentences: people are careless about them.
STATED, ASKED = (".", ".", ".", "", "", "?", "!"), ("?", "?", "?", "?", ".", ".", "", "!")
ENDS = {"explicit": STATED, "implicit": STATED, "mixed": STATED, "plain": ASKED, "followup": ASKED}
FORGETFUL, FORGET = 0.4, 0.12  # share of sentences with unknown words, and of such words among theirs
UNKNOWN = "<unk>"

_OPEN = re.compile(r"\{(\w+)\}|\[([^\[\]]*)\]")
_WORDS = re.compile(r"\w+|[^\w\s]")


@cache
def grammar() -> dict[str, tuple[str, ...]]:
    """The rules of the grammar, each with its alternatives."""
    text = (files("seglens") / "world" / "sayings.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rules = (rule.partition("\n") for rule in "\n".join(lines).split("\n= ")[1:])
    return {name.strip(): tuple(" ".join(one.split()) for one in sentence.split("|")) for name, _, sentence in rules}


def new_words() -> list[str]:
    """Words of the grammar that are not in the world's `vocabulary`, sorted."""
    sentence = " ".join(_OPEN.sub(lambda m: f" {m[2] or ''} ", one) for rule in grammar().values() for one in rule)
    sentence += " " + " ".join("".join(ends) for ends in ENDS.values())
    return sorted(set(_WORDS.findall(sentence)) - set(vocabulary()))


class ChatPhrases:
    """Sentences as people write them about one scene, each with one of three intents."""

    def __init__(self, one: Speaker):
        self._one, self._rng = one, one.rng
        self._phrase: str | None = None  # the target of every request; None: any target
        self._slots: dict[str, Callable[[], str]] = {
            "target": one.phrase,
            "named": self._named,
            "question": lambda: one.questions(1)[0].text.rstrip(".?"),
            "clue": lambda: self._rng.choice(self._rng.choice(CONCEPTS).clues),
            "thing": lambda: self._concept().name,
            "other": lambda: self._concept().name,
            "things": lambda: self._concept().plural,
            "others": lambda: self._concept().plural,
            "a_thing": self._a_thing,
            "an_other": self._a_thing,
            "hue": lambda: self._rng.choice(list(PALETTE)),
        }

    def intent(self, kind: str | None = None) -> Question:
        """An instruction of this kind, or of any, and its intent."""
        kind = kind or self._rng.choices(list(SHARES), list(SHARES.values()))[0]
        return Question(kind, INTENT.format(self._forget(self.sentence(kind))), INTENT_OF[kind])

    def sentence(self, kind: str) -> str:
        """A sentence of this kind."""
        sentence = self._expand(f"{{{kind}}}") + self._rng.choice(ENDS[kind])
        return re.sub(r"\s+(?=[,.?!;:])", "", " ".join(sentence.split()))

    def request(self, phrase: str) -> str:
        """A request for a mask of what `phrase` names, in people's words, at times with other words around it."""
        self._phrase, sentence = phrase, ""
        while phrase not in sentence:  # some sentences name another thing
            sentence = self.sentence(self._rng.choice(("explicit", "explicit", "explicit", "mixed")))
        self._phrase = None
        return sentence

    def _expand(self, text: str) -> str:
        while _OPEN.search(text):
            text = _OPEN.sub(self._fill, text)
        return text

    def _fill(self, match: re.Match[str]) -> str:
        if match[2] is not None:
            return match[2] if self._rng.random() < 0.5 else ""
        if self._phrase is not None and match[1] in ("x", "target", "named"):
            return self._phrase
        rules = grammar()
        return self._rng.choice(rules[match[1]]) if match[1] in rules else self._slots[match[1]]()

    def _forget(self, sentence: str) -> str:
        """The sentence with some words unknown, as a model does not know every word."""
        if self._rng.random() > FORGETFUL:
            return sentence
        return re.sub(r"\w{3,}", lambda m: UNKNOWN if self._rng.random() < FORGET else m[0], sentence)

    def _named(self) -> str:
        """A phrase that is not a question by itself, as "what barks" is."""
        while (sentence := self._one.phrase()).startswith("what "):
            pass
        return sentence

    def _concept(self) -> Concept:
        in_scene = [thing.concept for thing in self._one.things]
        return self._rng.choice(in_scene if self._rng.random() < 0.6 else CONCEPTS)

    def _a_thing(self) -> str:
        concept = self._concept()
        return article(concept.name, concept)
