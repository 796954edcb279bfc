"""Every concept of the world, by group, and the sets that training never sees together."""

from __future__ import annotations

import tomllib
from pathlib import Path

from seglens.world.concepts import animals, clothing, foods, home, nature, tools, vehicles
from seglens.world.concepts.base import Concept

_DRAWINGS = {
    "animal": animals.DRAWINGS,
    "food": foods.DRAWINGS,
    "vehicle": vehicles.DRAWINGS,
    "tool": tools.DRAWINGS,
    "clothing": clothing.DRAWINGS,
    "nature": nature.DRAWINGS,
    "home": home.DRAWINGS,
}


def _read(file: Path) -> dict[str, tuple[Concept, ...]]:
    """The concepts of the table with their drawings, by group, in the table's order."""
    table = tomllib.loads(file.read_text("utf-8"))
    return {
        group: tuple(Concept.of(name, record, _DRAWINGS[group][name]) for name, record in records.items())
        for group, records in table.items()
    }


GROUPS: dict[str, tuple[Concept, ...]] = _read(Path(__file__).parent / "concepts.toml")
CONCEPTS: tuple[Concept, ...] = tuple(c for group in GROUPS.values() for c in group)
GROUP_OF: dict[str, str] = {c.name: group for group, concepts in GROUPS.items() for c in concepts}
PART_NAMES: tuple[str, ...] = tuple(sorted({part for c in CONCEPTS for part in c.parts}))

# Every second concept has one colour that only the test shows: a purple cup is understood, not remembered.
HELD_OUT_COLOURS: frozenset[tuple[str, str]] = frozenset((c.name, c.colours[-1]) for c in CONCEPTS[::2])
