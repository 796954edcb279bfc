"""One visitor's picture and the talk about it. Each visitor has a Visit of their own; nothing of it is shared."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from seglens.agent import Agent, Conversation, ConversationImage, Reply, Route
from seglens.core.object_memory import bytes_held
from seglens.core.schema import Box, Click, WireModel
from seglens.serving.web.findings import Finding, Findings, changed, put
from seglens.serving.web.page_limits import PageLimits

Mode = Literal["add", "remove", "box"]


class Gesture(WireModel):
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
class Message:
    """What a visitor wrote, the route chosen for it (None: the model decides), and whether its mask is shown in spite
    of a picture or words that are strange to the model."""

    words: str
    route: str | None = None
    trust: bool = False


@dataclass(frozen=True)
class ChatLine:
    """One line of the talk as it is shown."""

    who: Literal["user", "assistant"]
    text: str
    route: Route | None = None


@dataclass(frozen=True, eq=False)
class State:
    """All that undoing brings back."""

    image: UInt8[np.ndarray, "h w 3"] | None = None
    lines: tuple[ChatLine, ...] = ()
    findings: Findings = ()
    chosen: int | None = None  # id of the finding that is spoken of: clicks correct it, follow-ups ask about it
    tries: tuple[str, ...] = ()  # suggestions
    familiar: bool | None = None  # whether the picture is of the kind that the model was made for; None: it cannot say
    trust: bool = False  # masks are shown in spite of that
    step: str = ""  # what led here, in words

    @property
    def finding(self) -> Finding | None:
        """The chosen one."""
        return next((one for one in self.findings if one.id == self.chosen), None)


class Visit:
    """What has been said and shown to one visitor, and the way back.

    `hear` and `hide` may be called while another thread is at work on the visit; all else by one thread at a time."""

    def __init__(self, agent: Agent, limits: PageLimits) -> None:
        self._agent, self._limits = agent, limits
        self.state, self._steps = State(), deque[State](maxlen=limits.steps)
        self.waiting = deque[Message]()  # heard and not yet begun
        self.busy: str | None = None  # what is being worked on, as the visitor said it
        self.hidden = set[int]()  # ids of findings that are switched off
        self._sight: ConversationImage | None = None
        self._talk: Conversation | None = None

    @property
    def lines(self) -> Iterator[ChatLine]:
        """The talk: what has been answered, then what has only been heard."""
        yield from self.state.lines
        yield from (ChatLine("user", words) for words in (self.busy, *(one.words for one in self.waiting)) if words)

    @property
    def undoes(self) -> str | None:
        """The words of the step that `undo` takes back; None when there is none."""
        return self.state.step if self._steps else None

    @property
    def bytes(self) -> int:
        """Memory that is held for it."""
        return bytes_held(self.state, self._steps, self._sight)

    def open(self, image: UInt8[np.ndarray, "h w 3"], tries: tuple[str, ...] = ()) -> None:
        """Go on with another picture."""
        self.rest()
        self._sight = self._agent.prepare(image)
        opened = self._sight.opened
        self._take(State(opened.image, tries=tries, familiar=opened.familiar, step="the new picture"))

    def restart(self) -> None:
        """The same picture, with nothing said of it."""
        state = replace(self.state, lines=(), findings=(), chosen=None, step="clearing the talk")
        self._take(state)
        self._point()

    def hear(self, message: Message) -> None:
        """Note what the visitor says; `answer` takes it from `waiting`."""
        self.waiting.append(message)

    def answer(self, message: Message) -> None:
        """Answer it. Raises ValueError without a picture, and where the agent does."""
        self._take(self._answered(self.state, message))

    def correct(self, gesture: Gesture, mode: Mode) -> None:
        """Refine the chosen mask. Raises ValueError without one, and where the gesture cannot be used."""
        talk, chosen = self._talking(), self.state.finding
        reply = talk.refine(box=gesture.box()) if mode == "box" else talk.refine(clicks=[gesture.click(mode)])
        assert chosen is not None, "what the talk refines is what was chosen"
        self.hidden.discard(chosen.id)
        state = _said(self.state, gesture.says(mode), reply)
        self._take(replace(state, findings=changed(state.findings, chosen.id, *reply.predictions)))

    def trust(self, id: int) -> None:
        """Show the mask of finding `id` in spite of the doubt about it. Raises ValueError as `_find`."""
        self.answer(Message(self._find(id).prediction.query, "segmentation", trust=True))

    def trust_picture(self) -> None:
        """Show the masks of this picture, though it is strange to the model: of what was asked and will be."""
        state = replace(self.state, trust=True)
        for one in self.state.findings:
            if one.doubted:
                state = self._answered(state, Message(one.prediction.query, "segmentation", trust=True))
        self._take(replace(state, step="showing masks all the same"))

    def choose(self, id: int) -> None:
        """Speak of finding `id` from now on. No step of its own: it changes nothing. Raises ValueError as `_find`."""
        self.state = replace(self.state, chosen=self._find(id).id)
        self._point()

    def remove(self, id: int) -> None:
        """Take finding `id` off the picture. Raises ValueError as `_find`."""
        gone = self._find(id)
        left = tuple(one for one in self.state.findings if one is not gone)
        chosen = left[-1].id if left and self.state.chosen == id else self.state.chosen
        step = f"removing {gone.prediction.query!r}"
        self._take(replace(self.state, findings=left, chosen=chosen if left else None, step=step))
        self._point()

    def hide(self, id: int, hidden: bool) -> None:
        """Switch finding `id` off or on."""
        (self.hidden.add if hidden else self.hidden.discard)(id)

    def undo(self) -> None:
        """Back to before the last step. Raises ValueError when there is none."""
        if not self._steps:
            raise ValueError("there is nothing to undo")
        before, self.state = self.state, self._steps.pop()
        if before.image is not self.state.image:
            self.rest()
        self._point()

    def forget_step(self) -> bool:
        """Let go of the oldest step; False when there is none."""
        if self._steps:
            self._steps.popleft()
            return True
        return False

    def note(self, said: str | None, text: str) -> None:
        """Add to the talk what was said to the visitor, after what the visitor said."""
        lines = () if not said else (ChatLine("user", said),)
        self._take(
            replace(self.state, lines=(*self.state.lines, *lines, ChatLine("assistant", text)), step=said or text)
        )

    def rest(self) -> None:
        """Let go of what can be made again from the picture."""
        self._sight = self._talk = None

    def _answered(self, state: State, message: Message) -> State:
        """The state after the answer to a message."""
        trust = message.trust or state.trust
        reply = self._talking().say(message.words, route=message.route, trust=trust)
        state = _said(state, message.words, reply, reply.route)
        for found in reply.predictions:
            findings, new, gone = put(state.findings, found, self._limits.findings, trust)
            self.hidden.discard(new.id)
            state = replace(state, findings=findings, chosen=new.id, lines=(*state.lines, *map(_made_room, gone)))
        return state

    def _take(self, state: State) -> None:
        if self.state.image is not None:
            self._steps.append(self.state)
        self.state = state

    def _find(self, id: int) -> Finding:
        """Raises ValueError where it is gone."""
        for one in self.state.findings:
            if one.id == id:
                return one
        raise ValueError("this mask is no longer there; choose one of the legend")

    def _point(self) -> None:
        """Let the talk be about the chosen finding."""
        if self._talk is not None:
            chosen = self.state.finding
            self._talk.point_at(() if chosen is None else (chosen.prediction,))

    def _talking(self) -> Conversation:
        if self.state.image is None:
            raise ValueError(
                "there is no picture (or it was forgotten, after a long pause or as the server was started anew); "
                "choose or upload one first"
            )
        if self._talk is None:
            self._sight = self._sight or self._agent.prepare(self.state.image)
            self._talk = self._agent.start(self._sight)
            self._point()
        return self._talk


def _made_room(gone: Finding) -> ChatLine:
    return ChatLine("assistant", f"The mask of {gone.prediction.query!r} was taken off to make room.")


def _said(state: State, words: str, reply: Reply, route: Route | None = None) -> State:
    """With what the visitor said and the reply to it as the last lines."""
    lines = [ChatLine("user", words), ChatLine("assistant", reply.text, route)]
    if reply.notice is not None:
        lines.append(ChatLine("assistant", reply.notice))
    return replace(state, lines=(*state.lines, *lines), step=words)
