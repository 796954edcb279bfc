"""Pictures to begin with: scenes of the drawn world, each with suggestions for messages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import UInt8

from seglens.world.world import World

SEED = 3


@dataclass(frozen=True)
class Example:
    """Scene number `index`, its description for visitors who cannot see it, and suggested messages."""

    index: int
    description: str
    suggestions: tuple[str, ...]

    @cached_property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        return World("test", SEED).scene(self.index).image


EXAMPLES = (
    Example(
        10,
        "a red tractor, an alarm clock, a yellow cup, an orange cat and blue scissors",
        (
            "segment the cat.",
            "what colour is the cup?",
            "the thing that wakes you in the morning",
            "segment all the things from home.",
            "show me the tail of the cat.",
        ),
    ),
    Example(
        15,
        "four snowmen and a black cat",
        (
            "segment each of the snowmen.",
            "how many snowmen are there?",
            "segment the purple snowman.",
            "segment the cat.",
        ),
    ),
    Example(
        20,
        "three buses and a mushroom",
        ("segment each bus.", "segment the yellow bus.", "what colour is the mushroom?", "segment the largest thing."),
    ),
    Example(
        8,
        "a black car, scissors, a pink rabbit and a small rocket",
        ("segment the scissors.", "show me the wheels of the car.", "is there an elephant?", "segment the elephant."),
    ),
    Example(
        22,
        "an orange lamp and three pairs of glasses",
        ("segment each of the glasses.", "the thing below the lamp", "how many lamps are there?"),
    ),
    Example(
        5,
        "a blue shirt, a chair, an umbrella, a tree and a rabbit on a meadow",
        ("the thing that keeps you dry", "segment the leftmost thing.", "which piece of clothing is in the picture?"),
    ),
)
