"""A scene beside itself with something marked, as follow-ups are answered on it (line 12 of Algorithm S1 of LENS)."""

from __future__ import annotations

import random

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from seglens.geometry import Frame
from seglens.miniature.concepts import CONCEPTS
from seglens.miniature.draw import PALETTE
from seglens.miniature.language import Speaker
from seglens.miniature.manners import Manners
from seglens.miniature.models import IMAGE_MEAN, IMAGE_STD
from seglens.miniature.phrases import Question, article, place, place_is_clear
from seglens.miniature.recipe import here
from seglens.miniature.world import Scene, Thing
from seglens.prediction import marked

NAMED = ("colour", "category", "reasoning", "reasoning existence", "existence")  # with one answer on both pictures


def beside(image: UInt8[np.ndarray, "h w 3"], mask: np.ndarray) -> UInt8[np.ndarray, "h ww 3"]:
    """The original, and to its right the same with the mask laid over it."""
    return np.concatenate([image, marked(image, mask)], 1)


def letterboxed(images: list[UInt8[np.ndarray, "_ _ 3"]], side: int) -> Float[Tensor, "b 3 side side"]:
    """Pictures of any shape as the vision encoder takes them, padded as a backbone pads them."""
    fill = tuple(255 * mean for mean in IMAGE_MEAN)
    canvas = torch.stack([Frame(*x.shape[:2]).letterbox(here(x), side, fill) for x in images])  # type: ignore[arg-type]
    return (canvas / 255 - IMAGE_MEAN[0]) / IMAGE_STD[0]


class Pair:
    """A scene with one of its things marked, and what may be asked about the mark."""

    def __init__(self, one: Speaker, scene: Scene):
        self._one, self._rng, self._manners = one, one.rng, Manners(one)
        self.thing: Thing = self._rng.choice(one.things)
        self.image = beside(scene.image, scene.mask(self.thing))

    def questions(self, count: int) -> list[Question]:
        """About what is marked, and now and then about a thing by its name."""
        return [self._named() if self._rng.random() < 0.25 else self._about() for _ in range(count)]

    def _named(self) -> Question:
        while (question := self._one.question(self._rng.choice(NAMED))) is None:
            pass
        return question

    def _about(self) -> Question:
        thing, rng, that = self.thing, self._rng, self._manners.rule("that")
        draw = rng.random()
        if draw < 0.4:
            frame = rng.choice(("what colour is {}?", "which colour has {}?", "what is the colour of {}?"))
            return Question("pair colour", frame.format(that), thing.colour)
        if draw < 0.6:
            frame = rng.choice(("what is {}?", "what is {} called?", "what thing is {}?", "what did you mark?"))
            return Question("pair name", frame.format(that), thing.name)
        if draw < 0.7:
            return Question("pair kind", f"what kind of thing is {that}?", thing.group)
        if draw < 0.8 and place_is_clear(thing):
            return Question("pair where", f"where is {that}?", place(thing))
        return self._yes_or_no(that)

    def _yes_or_no(self, that: str) -> Question:
        thing, true, about_colour = self.thing, self._rng.random() < 0.5, self._rng.random() < 0.5
        if about_colour:
            said = thing.colour if true else _other(self._rng, list(PALETTE), thing.colour)
        else:
            name = thing.name if true else _other(self._rng, [c.name for c in CONCEPTS], thing.name)
            said = article(name, next(c for c in CONCEPTS if c.name == name))
        return Question("pair check", f"is {that} {said}?", "yes" if true else "no")


def _other(rng: random.Random, options: list[str], not_this: str) -> str:
    return rng.choice([one for one in options if one != not_this])
