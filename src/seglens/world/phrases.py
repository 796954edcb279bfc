"""What all sentences have in common: their two kinds, the words of the world, and the facts of a scene.

An ambiguous sentence is never used: a relation needs a clear margin, a superlative a clear winner, "the cat"
exactly one cat, "the tail" exactly one thing that shows a tail.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from seglens.world.concepts import CONCEPTS
from seglens.world.concepts.base import Concept
from seglens.world.world import SIZE, Scene, Thing

MARGIN = 20.0  # pixels by which a relation or a position must be clear
RATIO = 1.45  # ratio of areas by which a size must be clear

SIDES = {"left of": "left", "right of": "right", "above": "above", "below": "below"}
KIND_WORDS = {
    "food": "food",
    "clothing": "piece of clothing",
    "nature": "thing from nature",
    "home": "thing from home",
}
KIND_PLURALS = {"food": "foods", "clothing": "clothes", "nature": "things from nature", "home": "things from home"}

FACES = (
    "deer",
    "cat",
    "rabbit",
    "elephant",
    "fish",
    "duck",
    "turtle",
    "butterfly",
    "flower",
    "cactus",
    "mushroom",
    "sun",
    "snowman",
)
# Parts that a drawing shows without a mask: there "the tail" would have two meanings, and is not absent.
UNMASKED_PARTS: dict[str, tuple[str, ...]] = {
    "tail": ("deer", "elephant", "turtle", "airplane"),
    "legs": ("cat", "rabbit", "duck", "clock"),
    "face": FACES,
    "arms": ("snowman",),
    "teeth": ("rabbit", "saw"),
    "fins": ("airplane",),
    "leaves": ("tree", "pizza"),
    "stem": ("apple",),
    "windows": ("airplane", "rocket", "house"),
    "roof": ("car", "bus", "tractor"),
    "door": ("car", "bus"),
    "seat": ("bicycle", "tractor"),
    "flame": ("cake",),
    "blade": ("scissors",),
    "blades": ("saw",),
    "toe": ("shoe",),
    "brim": ("snowman",),
    "cap": ("hat",),
}

Target = tuple[Thing, str | None]  # a thing, or one of its parts


@dataclass(frozen=True)
class Query:
    """A request for a mask. `targets` are (thing, part or None); their union is the answer; none means absent."""

    kind: str
    text: str
    targets: tuple[Target, ...]
    held_out: bool = False
    reply: str = ""  # the language model's answer
    phrase: str = ""  # the target alone, without the words of a request


@dataclass(frozen=True)
class Question:
    """A question with one short right answer."""

    kind: str
    text: str
    answer: str
    held_out: bool = False


def article(word: str, concept: Concept | None = None) -> str:
    """ "a cat", "an apple", but "scissors"."""
    if concept is not None and concept.name == concept.plural and concept.name.endswith("s"):
        return word
    return ("an " if word[0] in "aeiou" else "a ") + word


def kind_word(group: str, plural: bool = False) -> str:
    """The words for a group: "animal", "animals", "piece of clothing", "clothes"."""
    return KIND_PLURALS.get(group, group + "s") if plural else KIND_WORDS.get(group, group)


def place(thing: Thing) -> str:
    """One of nine: "top left" ... "middle center" ... "bottom right"."""
    column, row = (min(2, int(c * 3 / SIZE)) for c in thing.centre)
    return f"{('top', 'middle', 'bottom')[row]} {('left', 'center', 'right')[column]}"


def place_is_clear(thing: Thing) -> bool:
    """Whether `place` is beyond doubt: the centre is not near an edge of the nine fields."""
    return all(abs(c - edge) > MARGIN / 2 for c in thing.centre for edge in (SIZE / 3, 2 * SIZE / 3))


def may_be_in(where: str, thing: Thing) -> bool:
    """Could a reader think that `thing` is in this place? Near an edge it may be in either field."""
    row, column = where.split()
    fields = (("left", "center", "right").index(column), ("top", "middle", "bottom").index(row))
    third, slack = SIZE / 3, MARGIN / 2
    return all(k * third - slack <= c <= (k + 1) * third + slack for k, c in zip(fields, thing.centre, strict=True))


def direction(anchor: Thing, other: Thing) -> str | None:
    """Where `other` is relative to `anchor`, or None when it is neither clearly beside nor clearly above or below."""
    dx, dy = other.centre[0] - anchor.centre[0], other.centre[1] - anchor.centre[1]
    if abs(dx) > max(MARGIN, 1.3 * abs(dy)):
        return "left of" if dx < 0 else "right of"
    if abs(dy) > max(MARGIN, 1.3 * abs(dx)):
        return "above" if dy < 0 else "below"
    return None


def may_be(side: str, anchor: Thing, other: Thing) -> bool:
    """Could a reader think that `other` is on this side of `anchor`? Unclear cases count as yes."""
    side_of = direction(anchor, other)
    if side_of is not None:
        return side_of == side
    axis = 0 if side in ("left of", "right of") else 1
    before = other.centre[axis] < anchor.centre[axis]
    return before == (side in ("left of", "above"))


def describe(clue: str, nouns: Sequence[str] = ("thing", "object", "one")) -> list[str]:
    """Ways to name something by what is known of it: "the thing that you sit on", "the thing i could sit on"."""
    phrases = [f"the {noun} that {clue}" for noun in nouns]
    if clue.startswith("you "):
        phrases += [f"the {noun} {words}" for noun in nouns for words in (clue, f"i could {clue[4:]}")]
    elif clue.startswith("is "):
        phrases += [f"the {noun} {clue[3:]}" for noun in nouns]
    if "thing" in nouns:
        phrases += [f"something that {clue}", f"what {clue}"]
    return phrases


class Facts:
    """What is true of one scene, sorted for sentences. Choices come from `rng`; `train` leaves out held-out words."""

    def __init__(self, scene: Scene, rng: random.Random, train: bool):
        self.rng, self.train = rng, train
        self.things = scene.things
        worn = {part for t in self.things for part in t.parts}  # beside a snowman "the hat" may be its hat
        self.sayable = [t for t in self.things if t.name not in worn]
        self.by_name: dict[str, list[Thing]] = {}
        for thing in self.sayable:
            self.by_name.setdefault(thing.name, []).append(thing)
        self.unique = [own[0] for own in self.by_name.values() if len(own) == 1]
        self.absent = [c for c in CONCEPTS if c.name not in self.by_name and c.name not in worn]

    def showing(self, part: str) -> list[Thing]:
        """Everything that shows such a part, with its own mask or without, or has that name itself."""
        also = UNMASKED_PARTS.get(part, ())
        return [t for t in self.things if part in t.parts or t.name == part or t.name in also]

    def count(self, group: str) -> int:
        """How many things of a group there are."""
        return sum(t.group == group for t in self.things)

    def clues(self, concept: Concept) -> list[tuple[str, bool]]:
        """Phrasings of what is known of a concept: (words, held out). Two clues may be joined."""
        if not self.train and self.rng.random() < 0.4:
            return [(concept.held_out, True)]
        one, other = self.rng.sample(concept.clues, 2)
        return [(one, False), (other, False), (f"{one} and {other}", False)]
