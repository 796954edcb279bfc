"""Questions with one short right answer: existence, number, colour, kind, place and use of things."""

from __future__ import annotations

from collections.abc import Callable

from seglens.world.concepts import GROUPS, HELD_OUT_COLOURS
from seglens.world.phrases import (
    MARGIN,
    SIDES,
    Facts,
    Question,
    article,
    direction,
    kind_word,
    may_be,
    place,
    place_is_clear,
)

VQA_KINDS = ("existence", "count", "colour", "category", "where", "side", "reasoning", "reasoning existence", "absent")
VQA_WEIGHTS = dict(zip(VQA_KINDS, (3, 5, 2, 2, 2.5, 4, 2.5, 2, 1.5), strict=True))

QuestionAnswer = tuple[str, str] | tuple[str, str, bool]  # question, answer, and whether the phrasing is held out


def _yes(true: bool) -> str:
    return "yes" if true else "no"


class Questions:
    """All questions that the facts can answer."""

    def __init__(self, facts: Facts):
        self.facts, self.rng = facts, facts.rng
        self.makers: dict[str, Callable[[], QuestionAnswer | None]] = {
            "existence": self._existence,
            "count": self._count,
            "colour": self._colour,
            "category": self._category,
            "where": self._where,
            "side": self._side,
            "reasoning": self._reasoning,
            "reasoning existence": self._reasoning_existence,
            "absent": self._absent,
        }

    def make(self, kind: str) -> Question | None:
        """A question of this kind with its answer, or None when the scene offers none."""
        answer = self.makers[kind]()
        return None if answer is None else Question(kind, *answer)

    def _existence(self) -> QuestionAnswer:
        frames = ("is there {} in the picture?", "do you see {}?", "is there {}?", "does the picture show {}?")
        frame = self.rng.choice(frames)
        draw = self.rng.random()
        if draw < 0.2:
            group = self.rng.choice(list(GROUPS))
            return frame.format(article(kind_word(group))), _yes(self.facts.count(group) > 0)
        thing = self.rng.choice(self.facts.sayable)
        if draw < 0.4:
            colour = thing.colour if self.rng.random() < 0.5 else self.rng.choice(thing.concept.colours)
            if self.facts.train and (thing.name, colour) in HELD_OUT_COLOURS:
                colour = thing.colour
            present = any(t.colour == colour for t in self.facts.by_name[thing.name])
            return frame.format(article(f"{colour} {thing.name}")), _yes(present)
        concept = thing.concept if self.rng.random() < 0.5 else self.rng.choice(self.facts.absent)
        return frame.format(article(concept.name, concept)), _yes(concept.name in self.facts.by_name)

    def _count(self) -> QuestionAnswer:
        draw = self.rng.random()
        if draw < 0.15:
            return self.rng.choice(("how many things are there?", "count the things.")), str(len(self.facts.things))
        if draw < 0.35:
            present = self.rng.random() < 0.8
            group = self.rng.choice(self.facts.things).group if present else self.rng.choice(list(GROUPS))
            return f"how many {kind_word(group, plural=True)} are there?", str(self.facts.count(group))
        by_name = self.facts.by_name
        names = list(by_name)
        present = self.rng.random() < 0.9
        concept = by_name[self.rng.choice(names)][0].concept if present else self.rng.choice(self.facts.absent)
        many = [own for own in by_name.values() if len(own) > 1]
        if many and self.rng.random() < 0.5:
            concept = self.rng.choice(many)[0].concept
        frame = self.rng.choice(("how many {} are there?", "count the {}.", "how many {} do you see?"))
        return frame.format(concept.plural), str(len(by_name.get(concept.name, ())))

    def _colour(self) -> QuestionAnswer | None:
        if not self.facts.unique:
            return None
        thing = self.rng.choice(self.facts.unique)
        frame = self.rng.choice(("what colour is the {}?", "which colour has the {}?", "what is the colour of the {}?"))
        return frame.format(thing.name), thing.colour

    def _category(self) -> QuestionAnswer:
        alone = [t for t in self.facts.things if self.facts.count(t.group) == 1]
        if alone and self.rng.random() < 0.6:
            thing = self.rng.choice(alone)
            return f"which {kind_word(thing.group)} is in the picture?", thing.name
        thing = self.rng.choice(self.facts.things)
        return f"what kind of thing is the {thing.name}?", thing.group

    def _where(self) -> QuestionAnswer | None:
        clear = [t for t in self.facts.unique if place_is_clear(t)]
        if not clear:
            return None
        thing = self.rng.choice(clear)
        return f"in which part of the picture is the {thing.name}?", place(thing)

    def _side(self) -> QuestionAnswer | None:
        if len(self.facts.unique) < 2:
            return None
        one, other = self.rng.sample(self.facts.unique, 2)
        dx, dy = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
        draw = self.rng.random()
        if draw < 0.3 and abs(dx) > MARGIN:
            return f"is the {one.name} left or right of the {other.name}?", "left" if dx < 0 else "right"
        if draw < 0.6 and abs(dy) > MARGIN:
            return f"is the {one.name} above or below the {other.name}?", "above" if dy < 0 else "below"
        side = self.rng.choice(list(SIDES))
        offset = dx if side in ("left of", "right of") else dy
        if draw < 0.8 and abs(offset) > MARGIN:
            true = (offset < 0) == (side in ("left of", "above"))
            return f"is the {one.name} {side} the {other.name}?", _yes(true)
        others = [t for t in self.facts.things if t is not one]
        sides = [(t, direction(one, t)) for t in others]
        clear = [(t, s) for t, s in sides if s is not None and not any(may_be(s, one, o) for o in others if o is not t)]
        if not clear:
            return None
        thing, side = self.rng.choice(clear)
        return f"what is {side} the {one.name}?", thing.name

    def _reasoning(self) -> QuestionAnswer | None:
        if not self.facts.unique:
            return None
        thing = self.rng.choice(self.facts.unique)
        if thing.concept.parts and self.rng.random() < 0.2:
            part = self.rng.choice(list(thing.concept.parts))
            if len(self.facts.showing(part)) == 1:
                return f"which thing has {part if part.endswith('s') else article(part)}?", thing.name, False
        words, held_out = self.rng.choice(self.facts.clues(thing.concept))
        frame = self.rng.choice(("what {}?", "which thing {}?", "which object {}?"))
        return frame.format(words), thing.name, held_out

    def _reasoning_existence(self) -> QuestionAnswer:
        present = self.rng.random() < 0.5
        concept = self.rng.choice(self.facts.sayable).concept if present else self.rng.choice(self.facts.absent)
        words, held_out = self.rng.choice(self.facts.clues(concept))
        frame = self.rng.choice(("is there something that {}?", "do you see a thing that {}?"))
        return frame.format(words), _yes(concept.name in self.facts.by_name), held_out

    def _absent(self) -> QuestionAnswer:
        name = self.rng.choice(self.facts.absent).name
        frames = ("what colour is the {}?", "in which part of the picture is the {}?", "which colour has the {}?")
        return self.rng.choice(frames).format(name), f"there is no {name}"
