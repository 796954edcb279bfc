"""Requests for masks: by name, attribute, relation, size, position, reasoning, part, all of a kind, and of nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seglens.world.concepts import GROUPS, HELD_OUT_COLOURS
from seglens.world.phrases import (
    MARGIN,
    RATIO,
    Facts,
    Query,
    Target,
    describe,
    direction,
    kind_word,
    may_be,
    may_be_in,
    place,
    place_is_clear,
)
from seglens.world.world import Thing

LEAST_PART = 330  # visible pixels that a part needs for a request

QUERY_KINDS = (
    "name",
    "attribute",
    "relation",
    "superlative",
    "position",
    "reasoning",
    "part",
    "part reasoning",
    "plural",
    "absent",
)
QUERY_WEIGHTS = dict(zip(QUERY_KINDS, (3, 3, 2, 1.5, 2, 4, 2.5, 1.5, 2.5, 6), strict=True))

REQUESTS = (
    "segment {}.",
    "please segment {}.",
    "show me {}.",
    "find {}.",
    "can you segment {}?",
    "highlight {}.",
    "locate {}.",
    "where is {}?",
    "mark {}.",
    "point at {}.",
    "outline {}.",
    "i want to see {}.",
    "{}",
    "{}.",
    "{}",
)
UNNAMED = ("thing", "object", "one", "part", "organ")
NUMBERS = ("two", "three", "four")

Option = tuple[str, list[Target], bool]  # phrase, targets, held out


def _whole(phrases: Sequence[str], thing: Thing, held_out: bool = False) -> list[Option]:
    return [(phrase, [(thing, None)], held_out) for phrase in phrases]


def _reply(phrase: str, targets: Sequence[Target]) -> str:
    if not targets:
        named = phrase.startswith("the ") and phrase.split()[1] not in UNNAMED
        return f"there is no {phrase[4:]}" if named else "there is no such thing"
    thing, part = targets[0]
    if len(targets) > 1:
        same = {t.name for t, _ in targets}
        return f"{len(targets)} {thing.concept.plural if len(same) == 1 else 'things'}"
    return f"{f'{part} of the ' if part else ''}{thing.colour} {thing.name}, {place(thing)}"


class Requests:
    """All requests that the facts allow."""

    def __init__(self, facts: Facts):
        self.facts, self.rng = facts, facts.rng
        self.options: dict[str, Callable[[], list[Option]]] = {
            "name": self._name,
            "attribute": self._attribute,
            "relation": self._relation,
            "superlative": self._superlative,
            "position": self._position,
            "reasoning": self._reasoning,
            "part": self._part,
            "part reasoning": self._part_reasoning,
            "plural": self._plural,
            "absent": self._absent,
        }

    def make(self, kind: str) -> Query | None:
        """A request of this kind, or None when the scene offers none."""
        options = self.options[kind]()
        if not options:
            return None
        phrase, targets, held_out = self.rng.choice(options)
        frame = self.rng.choice(REQUESTS)
        text = frame.format(phrase)
        if phrase.startswith("what "):
            text = phrase + "?"
        return Query(kind, text, tuple(targets), held_out, _reply(phrase, targets), phrase)

    def phrase(self, kind: str) -> str | None:
        """A phrase of this kind without the words of a request, or None."""
        options = self.options[kind]()
        return self.rng.choice(options)[0] if options else None

    def _name(self) -> list[Option]:
        return [one for t in self.facts.unique for one in _whole([f"the {t.name}"], t)]

    def _attribute(self) -> list[Option]:
        options = []
        colours = [t.colour for t in self.facts.things]
        for t in self.facts.things:
            same = self.facts.by_name.get(t.name, [])
            if [s.colour for s in same].count(t.colour) == 1:
                # with one of a kind the colour is decoration; among clones it decides, so those weigh more
                options += _whole([f"the {t.colour} {t.name}"] * (1 if len(same) == 1 else 3), t)
            if colours.count(t.colour) == 1:
                options += _whole([f"the {t.colour} thing"], t)
            if len(same) == 2:
                rest = same[0] if same[1] is t else same[1]
                if t.area > RATIO * rest.area:
                    options += _whole([f"the big {t.name}", f"the larger {t.name}"], t)
                if t.area * RATIO < rest.area:
                    options += _whole([f"the little {t.name}", f"the smaller {t.name}"], t)
            if self.facts.count(t.group) == 1:
                options += _whole([f"the only {kind_word(t.group)}"], t)
        return options

    def _relation(self) -> list[Option]:
        options = []
        for anchor in self.facts.unique:
            others = [t for t in self.facts.things if t is not anchor]
            for t in others:
                side = direction(anchor, t)
                if side is None:
                    continue
                rivals = [o for o in others if o is not t and may_be(side, anchor, o)]
                if not rivals:
                    options += _whole([f"the thing {side} the {anchor.name}"], t)
                if t.name in self.facts.by_name and not any(o.name == t.name for o in rivals):
                    weight = 1 if len(self.facts.by_name[t.name]) == 1 else 3
                    options += _whole([f"the {t.name} {side} the {anchor.name}"] * weight, t)
        return options

    def _pools(self) -> list[tuple[list[Thing], str]]:
        """Sets in which one member may be the largest or outermost, with the noun for their members."""
        pools = [(own, name) for name, own in self.facts.by_name.items() if len(own) > 1]
        return [*pools, *pools, (list(self.facts.things), "thing")] if len(self.facts.things) > 1 else pools

    def _superlative(self) -> list[Option]:
        options = []
        for pool, noun in self._pools():
            order = sorted(pool, key=lambda t: t.area)
            if order[-1].area > RATIO * order[-2].area:
                options += _whole([f"the largest {noun}"], order[-1])
            if order[0].area * RATIO < order[1].area:
                options += _whole([f"the smallest {noun}"], order[0])
        return options

    def _position(self) -> list[Option]:
        options = [one for pool, noun in self._pools() for one in self._outermost(pool, noun)]
        for t in self.facts.things:
            where = place(t)
            if place_is_clear(t) and sum(may_be_in(where, o) for o in self.facts.things) == 1:
                options += _whole([f"the thing in the {where}"], t)
        return options

    @staticmethod
    def _outermost(pool: Sequence[Thing], noun: str) -> list[Option]:
        options = []
        words = (
            ("leftmost", "on the left", "rightmost", "on the right"),
            ("topmost", "at the top", "lowest", "at the bottom"),
        )
        for axis, (first, before, last, after) in enumerate(words):
            order = sorted(pool, key=lambda t: t.centre[axis])
            if order[1].centre[axis] - order[0].centre[axis] > MARGIN:
                options += _whole([f"the {first} {noun}"], order[0])
                if len(pool) == 2:
                    options += _whole([f"the {noun} {before}"], order[0])
            if order[-1].centre[axis] - order[-2].centre[axis] > MARGIN:
                options += _whole([f"the {last} {noun}"], order[-1])
                if len(pool) == 2:
                    options += _whole([f"the {noun} {after}"], order[-1])
        return options

    def _reasoning(self) -> list[Option]:
        options = []
        for t in self.facts.unique:
            words, held_out = self.rng.choice(self.facts.clues(t.concept))
            options += _whole([self.rng.choice(describe(words))], t, held_out)
        return options

    def _shown_parts(self) -> list[tuple[Thing, str]]:
        return [(t, part) for t in self.facts.things for part, area in t.parts.items() if area >= LEAST_PART]

    def _part(self) -> list[Option]:
        options: list[Option] = []
        for t, part in self._shown_parts():
            same = self.facts.by_name.get(t.name, [])
            if len(same) == 1:
                options.append((f"the {part} of the {t.name}", [(t, part)], False))
            elif [s.colour for s in same].count(t.colour) == 1:
                options.append((f"the {part} of the {t.colour} {t.name}", [(t, part)], False))
            if len(self.facts.showing(part)) == 1:
                options.append((f"the {part}", [(t, part)], False))
        return options

    def _part_reasoning(self) -> list[Option]:
        options: list[Option] = []
        for t, part in self._shown_parts():
            clue = self.rng.choice(t.concept.parts[part])
            alike = [o for o in self.facts.things if any(clue in clues for clues in o.concept.parts.values())]
            rivals = [o for o in (*self.facts.showing(part), *alike) if o is not t]
            nouns = ("part", "organ") if t.group == "animal" else ("part",)
            if not rivals:
                options.append((self.rng.choice(describe(clue, nouns)), [(t, part)], False))
            if t in self.facts.unique:
                owned = [f"{noun} of the {t.name}" for noun in nouns]
                options.append((self.rng.choice(describe(clue, owned)), [(t, part)], False))
        return options

    def _plural(self) -> list[Option]:
        options: list[Option] = []
        for name, own in self.facts.by_name.items():
            if len(own) > 1:
                many = own[0].concept.plural
                phrases = (f"all the {many}", f"every {name}", f"the {NUMBERS[len(own) - 2]} {many}", f"each {name}")
                options += [(phrase, [(t, None) for t in own], False) for phrase in phrases]
        for group in GROUPS:
            own = [t for t in self.facts.things if t.group == group]
            if len({t.name for t in own}) > 1:
                options.append((f"all the {kind_word(group, plural=True)}", [(t, None) for t in own], False))
        return options

    def _absent(self) -> list[Option]:
        kind = self.rng.random()
        concept = self.rng.choice(self.facts.absent)
        if kind < 0.5:
            return [(f"the {concept.name}", [], False)]
        if kind < 0.75:
            words, held_out = self.rng.choice(self.facts.clues(concept))
            return [(self.rng.choice(describe(words)), [], held_out)]
        if kind < 0.9:
            thing = self.rng.choice(self.facts.sayable)
            colours = {t.colour for t in self.facts.by_name[thing.name]}
            others = [c for c in thing.concept.colours if c not in colours and (thing.name, c) not in HELD_OUT_COLOURS]
            return [(f"the {self.rng.choice(others)} {thing.name}", [], False)] if others else []
        parts = [(c, part) for c in self.facts.absent for part in c.parts if not self.facts.showing(part)]
        concept, part = self.rng.choice(parts)
        return [(self.rng.choice([f"the {part}", f"the {part} of the {concept.name}"]), [], False)]
