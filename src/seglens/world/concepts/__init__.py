"""Every concept of the world, by group, and the sets that training never sees together."""

from __future__ import annotations

from seglens.world.concepts import animals, clothing, foods, home, nature, tools, vehicles
from seglens.world.concepts.base import Concept

GROUPS: dict[str, tuple[Concept, ...]] = {
    "animal": animals.CONCEPTS,
    "food": foods.CONCEPTS,
    "vehicle": vehicles.CONCEPTS,
    "tool": tools.CONCEPTS,
    "clothing": clothing.CONCEPTS,
    "nature": nature.CONCEPTS,
    "home": home.CONCEPTS,
}
CONCEPTS: tuple[Concept, ...] = tuple(c for group in GROUPS.values() for c in group)
GROUP_OF: dict[str, str] = {c.name: group for group, concepts in GROUPS.items() for c in concepts}
PART_NAMES: tuple[str, ...] = tuple(sorted({part for c in CONCEPTS for part in c.parts}))

# Every second concept has one colour that only the test shows: a purple cup is understood, not remembered.
HELD_OUT_COLOURS: frozenset[tuple[str, str]] = frozenset((c.name, c.colours[-1]) for c in CONCEPTS[::2])
