"""One everyday concept: how it is drawn, what its parts are called, and what people know about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from seglens.world.draw import Pen


@dataclass(frozen=True)
class Concept:
    """A kind of thing.

    `clues` complete "the thing that ..." and are trained on; `held_out` is a phrasing that only the test asks.
    `parts` maps a part's name to clues that complete "the part that ...". `tilt` bounds the random rotation in degrees.
    """

    name: str
    plural: str
    colours: tuple[str, ...]
    draw: Callable[[Pen], None]
    clues: tuple[str, str, str]
    held_out: str
    parts: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    tilt: float = 12.0

    @classmethod
    def of(cls, name: str, record: Mapping[str, Any], draw: Callable[[Pen], None]) -> Concept:
        """A record of `concepts.toml`."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in record.items()
        }
        fields["parts"] = {part: tuple(clues) for part, clues in record.get("parts", {}).items()}
        return cls(name, draw=draw, **fields)
