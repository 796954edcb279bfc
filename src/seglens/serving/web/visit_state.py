"""What a visitor did, and the state of the page that followed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from seglens.agent import Reply, Route
from seglens.core.schema import Box, Click, WireModel
from seglens.serving.web.findings import Finding, Findings

Mode = Literal["add", "remove", "box"]


class Gesture(WireModel):
    """Where the pointer went down and up, in pixels of the image."""

    start: tuple[float, float]
    end: tuple[float, float]

    def click(self, mode: Mode) -> Click:
        return Click(x=self.end[0], y=self.end[1], label=0 if mode == "remove" else 1)

    def text(self, mode: Mode) -> str:
        """The gesture in words."""
        point = "({:.0f}, {:.0f})".format
        if mode == "box":
            return f"It lies in the box from {point(*self.start)} to {point(*self.end)}."
        return f"{point(*self.end)} {'does not belong' if mode == 'remove' else 'belongs'} to it."

    def box(self) -> Box:
        (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(self.start, self.end, strict=True))
        return Box(x0=x0, y0=y0, x1=x1, y1=y1)


@dataclass(frozen=True)
class Message:
    """A visitor's message, the route chosen for it (None: the model decides), and whether its mask is shown although
    the picture or a word is unfamiliar to the model."""

    text: str
    route: str | None = None
    trust: bool = False


@dataclass(frozen=True)
class ChatLine:
    """One line of the chat as it is shown."""

    role: Literal["user", "assistant"]
    text: str
    route: Route | None = None


@dataclass(frozen=True, eq=False)
class State:
    """All that undoing restores."""

    image: UInt8[np.ndarray, "h w 3"] | None = None
    lines: tuple[ChatLine, ...] = ()
    findings: Findings = ()
    chosen: int | None = None  # id of the current finding: clicks correct it, follow-ups are about it
    suggestions: tuple[str, ...] = ()
    familiar: bool | None = None  # whether the picture is of the kind that the model was made for; None: not known
    trust: bool = False  # masks are shown although it is not
    step: str = ""  # the step that led to this state, in words

    @property
    def finding(self) -> Finding | None:
        """The current one."""
        return next((one for one in self.findings if one.id == self.chosen), None)


def with_reply(state: State, text: str, reply: Reply, route: Route | None = None) -> State:
    """The state with a visitor's message and the reply to it as the last lines."""
    lines = [ChatLine("user", text), ChatLine("assistant", reply.text, route)]
    if reply.notice is not None:
        lines.append(ChatLine("assistant", reply.notice))
    return replace(state, lines=(*state.lines, *lines), step=text)
