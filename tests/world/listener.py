"""Reads a phrase about a scene without knowing its source: every meaning of it, from masks, names and clues.

It shares with the package the catalogue and the two thresholds of clarity, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from seglens.world.concepts import CONCEPTS, GROUPS
from seglens.world.phrases import MARGIN, RATIO, UNMASKED_PARTS
from seglens.world.world import SIZE, Scene

Reading = frozenset[tuple[int, str | None]]  # (thing, part): what one reading of a phrase covers

PLURAL = {c.plural: c.name for c in CONCEPTS}
NAMES = {c.name for c in CONCEPTS}
PARTS = {part for c in CONCEPTS for part in c.parts}
COLOURS = {colour for c in CONCEPTS for colour in c.colours}
KINDS = {
    "animal": "animal",
    "food": "food",
    "vehicle": "vehicle",
    "tool": "tool",
    "piece of clothing": "clothing",
    "thing from nature": "nature",
    "thing from home": "home",
}
KIND_PLURALS = {
    "animals": "animal",
    "foods": "food",
    "vehicles": "vehicle",
    "tools": "tool",
    "clothes": "clothing",
    "things from nature": "nature",
    "things from home": "home",
}
CLUES: dict[str, str] = {}  # all clues, with their concepts
for _concept in CONCEPTS:
    _joined = (f"{a} and {b}" for a, b in permutations(_concept.clues, 2))
    CLUES |= dict.fromkeys((*_concept.clues, *_joined, _concept.held_out), _concept.name)
FIELDS = {"left": 0, "center": 1, "right": 2, "top": 0, "middle": 1, "bottom": 2}
NUMBERS = {"two": 2, "three": 3, "four": 4}
assert set(KINDS.values()) == set(KIND_PLURALS.values()) == set(GROUPS)


@dataclass(frozen=True)
class Seen:
    """One object as the masks show it."""

    index: int
    name: str
    group: str
    colour: str
    x: float
    y: float
    area: int
    parts: dict[str, tuple[str, str, str]]

    def at(self, axis: int) -> float:
        return (self.x, self.y)[axis]


def clue_of(phrase: str, nouns: str) -> set[str]:
    """Every clue that "the thing that ...", "something that ...", "what ..." may stand for."""
    clues = []
    if match := re.fullmatch(rf"(?:the (?:{nouns}) that|something that|what) (.+)", phrase):
        clues.append(match[1])
    elif match := re.fullmatch(rf"the (?:{nouns}) i could (.+)", phrase):
        clues.append(f"you {match[1]}")
    elif match := re.fullmatch(rf"the (?:{nouns}) (.+)", phrase):
        clues += [match[1], f"is {match[1]}"]
    return set(clues)


class Listener:
    """Understands phrases about one scene."""

    def __init__(self, scene: Scene):
        self.things = []
        for t in scene.things:
            rows, columns = np.nonzero(scene.ids == t.index)
            x, y = columns.mean() + 0.5, rows.mean() + 0.5
            self.things.append(Seen(t.index, t.name, t.group, t.colour, x, y, len(rows), dict(t.concept.parts)))

    def named(self, noun: str) -> list[Seen]:
        """Everything that a noun may mean: "thing" all, "hat" also that of a snowman."""
        return [s for s in self.things if noun in ("thing", s.name)]

    def showing(self, part: str) -> list[Seen]:
        return [s for s in self.things if part in s.parts or s.name in UNMASKED_PARTS.get(part, ())]

    def readings(self, phrase: str) -> set[Reading]:
        """All meanings of the phrase; empty when nothing fits."""
        readings: set[Reading] = set()
        for pattern, read in self._grammar().items():
            if match := re.fullmatch(pattern, phrase):
                readings |= set(read(*match.groups()))
        for clue in clue_of(phrase, "thing|object|one"):
            readings |= {_whole(s) for s in self.things if CLUES.get(clue) == s.name}
        return {reading for reading in readings if reading}

    def _grammar(self) -> dict[str, Callable[..., list[Reading]]]:
        name, noun, part = "|".join(NAMES), "|".join([*NAMES, "thing"]), "|".join(PARTS)
        colour = "|".join(COLOURS)
        return {
            rf"the ({name})": lambda n: [_whole(s) for s in self.named(n)],
            rf"the ({part})": lambda p: [frozenset({(s.index, p)}) for s in self.showing(p)],
            rf"the ({colour}) ({noun})": self._coloured,
            rf"the (big|larger|little|smaller) ({name})": self._of_two,
            rf"the only ({'|'.join(KINDS)})": lambda k: [_whole(s) for s in self.things if s.group == KINDS[k]],
            rf"the ({noun}) (left of|right of|above|below) the ({name})": self._related,
            rf"the (leftmost|rightmost|topmost|lowest|largest|smallest) ({noun})": self._extreme,
            rf"the ({noun}) (on the left|on the right|at the top|at the bottom)": self._of_two_placed,
            r"the thing in the (top|middle|bottom) (left|center|right)": self._placed,
            rf"the ({part}) of the (?:({colour}) )?({name})": self._owned,
            rf"(the (?:part|organ)) of the ({name}) (.+)": self._owned_clue,
            r"(the (?:part|organ) .+)": self._part_clue,
            r"(?:all the|every|each) (.+)": lambda what: [self._all(what)],
            r"the (two|three|four) (.+)": self._counted,
        }

    def _coloured(self, colour: str, noun: str) -> list[Reading]:
        return [_whole(s) for s in self.named(noun) if s.colour == colour]

    def _of_two(self, word: str, name: str) -> list[Reading]:
        own = sorted(self.named(name), key=lambda s: s.area)
        if len(own) != 2 or own[1].area <= RATIO * own[0].area:
            return [_whole(s) for s in own]  # unclear: either
        return [_whole(own[word in ("big", "larger")])]

    def _of_two_placed(self, noun: str, where: str) -> list[Reading]:
        own = self.named(noun)
        axis, last = int("left" not in where and "right" not in where), where.endswith(("right", "bottom"))
        if len(own) != 2 or abs(own[0].at(axis) - own[1].at(axis)) <= MARGIN:
            return [_whole(s) for s in own]
        return [_whole(sorted(own, key=lambda s: s.at(axis))[last])]

    def _extreme(self, word: str, noun: str) -> list[Reading]:
        """The first, and every other one that is not clearly less."""
        sign = -1 if word in ("rightmost", "lowest", "largest") else 1
        if word in ("largest", "smallest"):
            size = lambda s: sign * np.log(s.area)  # noqa: E731
            slack = np.log(RATIO)
        else:
            axis = int(word in ("topmost", "lowest"))
            size, slack = (lambda s: sign * s.at(axis)), MARGIN
        best = min(size(s) for s in self.named(noun))
        return [_whole(s) for s in self.named(noun) if size(s) <= best + slack]

    def is_on_side(self, side: str, s: Seen, anchor: Seen) -> str:
        """Is `s` on this side of the anchor: "yes", "no" or "maybe"?"""
        axis, sign = int(side in ("above", "below")), 1 if side in ("right of", "below") else -1
        along = sign * (s.at(axis) - anchor.at(axis))
        across = abs(s.at(1 - axis) - anchor.at(1 - axis))
        if along > MARGIN and along > 1.3 * across:
            return "yes"
        if (across > MARGIN and across > 1.3 * abs(along)) or (-along > MARGIN and -along > 1.3 * across):
            return "no"
        return "maybe" if along > 0 else "no"

    def _related(self, noun: str, side: str, name: str) -> list[Reading]:
        anchors = self.named(name)
        return [
            _whole(s) for a in anchors for s in self.named(noun) if s is not a and self.is_on_side(side, s, a) != "no"
        ]

    def places(self, s: Seen) -> set[tuple[int, int]]:
        """The fields, row and column, in which a thing may be."""
        near = [{int((c + d) * 3 // SIZE) for d in (-MARGIN / 2, 0, MARGIN / 2)} & {0, 1, 2} for c in (s.y, s.x)]
        return {(row, column) for row in near[0] for column in near[1]}

    def _placed(self, row: str, column: str) -> list[Reading]:
        return [_whole(s) for s in self.things if (FIELDS[row], FIELDS[column]) in self.places(s)]

    def _owned(self, part: str, colour: str | None, name: str) -> list[Reading]:
        own = [s for s in self.named(name) if colour in (None, s.colour) and part in s.parts]
        return [frozenset({(s.index, part)}) for s in own]

    def _owned_clue(self, start: str, name: str, rest: str) -> list[Reading]:
        clues = clue_of(f"{start} {rest}", "part|organ")
        return [reading for s in self.named(name) for reading in self._parts_with(clues, s)]

    def _part_clue(self, phrase: str) -> list[Reading]:
        clues = clue_of(phrase, "part|organ")
        readings = [reading for s in self.things for reading in self._parts_with(clues, s)]
        parts = {part for reading in readings for _, part in reading}
        return readings + [frozenset({(s.index, p)}) for p in parts if p is not None for s in self.showing(p)]

    @staticmethod
    def _parts_with(clues: set[str], s: Seen) -> list[Reading]:
        return [frozenset({(s.index, part)}) for part, known in s.parts.items() if clues & set(known)]

    def many(self, what: str) -> list[Seen]:
        """Everything that "cats", "cat", "animals" or "things" means."""
        if what == "things":
            return self.things
        if what in KIND_PLURALS:
            return [s for s in self.things if s.group == KIND_PLURALS[what]]
        return self.named(PLURAL.get(what, what))

    def _all(self, what: str) -> Reading:
        return frozenset((s.index, None) for s in self.many(what))

    def _counted(self, number: str, what: str) -> list[Reading]:
        return [self._all(what)] if len(self.many(what)) == NUMBERS[number] else []


def _whole(s: Seen) -> Reading:
    return frozenset({(s.index, None)})
