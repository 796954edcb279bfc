"""What people may say about a scene to an assistant that segments, and the intent of it (Algorithm S1 of LENS).

Sentences come from the grammar of `sayings.txt`; the scene fills its slots. Some are about what is not shown."""

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
# How a sentence ends: people are careless about it.
STATED, ASKED = (".", ".", ".", "", "", "?", "!"), ("?", "?", "?", "?", ".", ".", "", "!")
ENDS = {"explicit": STATED, "implicit": STATED, "mixed": STATED, "plain": ASKED, "followup": ASKED}
FORGETFUL, FORGET = 0.4, 0.12  # share of sentences with unknown words, and of such words among theirs
UNKNOWN = "<unk>"

_OPEN = re.compile(r"\{(\w+)\}|\[([^\[\]]*)\]")
_WORDS = re.compile(r"\w+|[^\w\s]")


@cache
def sayings() -> dict[str, tuple[str, ...]]:
    """The rules of the grammar, each with its alternatives."""
    text = (files("seglens") / "world" / "sayings.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rules = (rule.partition("\n") for rule in "\n".join(lines).split("\n= ")[1:])
    return {name.strip(): tuple(" ".join(one.split()) for one in said.split("|")) for name, _, said in rules}


def new_words() -> list[str]:
    """Words of the grammar that are not in the world's `vocabulary`, sorted."""
    said = " ".join(_OPEN.sub(lambda m: f" {m[2] or ''} ", one) for rule in sayings().values() for one in rule)
    said += " " + " ".join("".join(ends) for ends in ENDS.values())
    return sorted(set(_WORDS.findall(said)) - set(vocabulary()))


class Manners:
    """Says what people may say, and which of three intents it has."""

    def __init__(self, one: Speaker):
        self._one, self._rng = one, one.rng
        self._meant: str | None = None  # what every request is about, if it is given
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
        """An instruction of this kind, or of any, and where it should go."""
        kind = kind or self._rng.choices(list(SHARES), list(SHARES.values()))[0]
        return Question(kind, INTENT.format(self._forget(self.say(kind))), INTENT_OF[kind])

    def say(self, kind: str) -> str:
        """A sentence of this kind."""
        said = self._expand(f"{{{kind}}}") + self._rng.choice(ENDS[kind])
        return re.sub(r"\s+(?=[,.?!;:])", "", " ".join(said.split()))

    def request(self, phrase: str) -> str:
        """A request for a mask of what `phrase` calls, as people put it, at times with other words around it."""
        self._meant, said = phrase, ""
        while phrase not in said:  # some sentences speak of a thing of their own
            said = self.say(self._rng.choice(("explicit", "explicit", "explicit", "mixed")))
        self._meant = None
        return said

    def _expand(self, text: str) -> str:
        while _OPEN.search(text):
            text = _OPEN.sub(self._fill, text)
        return text

    def _fill(self, found: re.Match[str]) -> str:
        if found[2] is not None:
            return found[2] if self._rng.random() < 0.5 else ""
        if self._meant is not None and found[1] in ("x", "target", "named"):
            return self._meant
        rules = sayings()
        return self._rng.choice(rules[found[1]]) if found[1] in rules else self._slots[found[1]]()

    def _forget(self, said: str) -> str:
        """Listeners do not know every word."""
        if self._rng.random() > FORGETFUL:
            return said
        return re.sub(r"\w{3,}", lambda m: UNKNOWN if self._rng.random() < FORGET else m[0], said)

    def _named(self) -> str:
        """A phrase that is no question by itself, as "what barks" is."""
        while (said := self._one.phrase()).startswith("what "):
            pass
        return said

    def _concept(self) -> Concept:
        shown = [thing.concept for thing in self._one.things]
        return self._rng.choice(shown if self._rng.random() < 0.6 else CONCEPTS)

    def _a_thing(self) -> str:
        concept = self._concept()
        return article(concept.name, concept)
