"""One visitor's picture and the talk about it. Each visitor has a Visit of their own; nothing of it is shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from seglens.agent import Agent, Conversation, Route
from seglens.schema import Box, Click, Said

Mode = Literal["add", "remove", "box"]


class Gesture(Said):
    """Where the pointer went down and up, in pixels of the image."""

    start: tuple[float, float]
    end: tuple[float, float]

    def click(self, mode: Mode) -> Click:
        return Click(x=self.end[0], y=self.end[1], label=0 if mode == "remove" else 1)

    def says(self, mode: Mode) -> str:
        """The gesture in words."""
        spot = "({:.0f}, {:.0f})".format
        if mode == "box":
            return f"It lies in the box from {spot(*self.start)} to {spot(*self.end)}."
        return f"{spot(*self.end)} {'does not belong' if mode == 'remove' else 'belongs'} to it."

    def box(self) -> Box:
        (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(self.start, self.end, strict=True))
        return Box(x0=x0, y0=y0, x1=x1, y1=y1)


@dataclass(frozen=True)
class Line:
    """One line of the talk as it is shown."""

    who: Literal["user", "assistant"]
    text: str
    route: Route | None = None


class Visit:
    """What has been said and shown to one visitor since the picture was opened."""

    def __init__(self) -> None:
        self.talk: Conversation | None = None
        self.lines: list[Line] = []

    def open(self, agent: Agent, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Start over with another picture."""
        self.talk, self.lines = agent.start(image), []

    def hear(self, text: str) -> None:
        """Note what the visitor says."""
        self.lines.append(Line("user", text))

    def answer(self, text: str, route: str | None, trust: bool = False) -> None:
        """Answer it. Raises ValueError without a picture, and where the agent does."""
        reply = self._talking().say(text, route=route, trust=trust)
        self.lines.append(Line("assistant", reply.text, reply.route))
        if reply.notice is not None:
            self.lines.append(Line("assistant", reply.notice))

    def correct(self, gesture: Gesture, mode: Mode) -> None:
        """Refine the last mask. Raises ValueError without one, and where the gesture cannot be used."""
        talk = self._talking()
        self.hear(gesture.says(mode))
        reply = talk.refine(box=gesture.box()) if mode == "box" else talk.refine(clicks=[gesture.click(mode)])
        self.lines.append(Line("assistant", reply.text))

    def complain(self, error: str) -> None:
        """Note what went wrong, where the visitor reads it."""
        self.lines.append(Line("assistant", f"⚠️ {error}"))

    def _talking(self) -> Conversation:
        if self.talk is None:
            raise ValueError("there is no picture (or it was forgotten after a long pause); choose or upload one first")
        return self.talk
