"""One visitor's picture and the chat about it. Each visitor has a Visit of their own, and shares nothing of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from seglens.agent import Agent, Conversation, ConversationImage
from seglens.core.object_memory import bytes_held
from seglens.serving.web.findings import Finding, changed, put
from seglens.serving.web.page_limits import PageLimits
from seglens.serving.web.visit_state import ChatLine, Gesture, Message, Mode, State, with_reply


class Visit:
    """The state of one visitor's page, and the steps that can be undone.

    `queue` and `hide` may be called while another thread works on the visit; all else by one thread at a time."""

    def __init__(self, agent: Agent, limits: PageLimits) -> None:
        self._agent, self._limits = agent, limits
        self.state, self._steps = State(), deque[State](maxlen=limits.steps)
        self.waiting = deque[Message]()  # messages that are not answered yet
        self.busy: str | None = None  # the message that is being answered
        self.hidden = set[int]()  # ids of findings that are switched off
        self._image: ConversationImage | None = None
        self._conversation: Conversation | None = None

    @property
    def lines(self) -> Iterator[ChatLine]:
        """The chat: first what has been answered, then the messages that wait."""
        yield from self.state.lines
        yield from (ChatLine("user", text) for text in (self.busy, *(one.text for one in self.waiting)) if text)

    @property
    def undo_text(self) -> str | None:
        """The step that `undo` takes back, in words; None when there is none."""
        return self.state.step if self._steps else None

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return bytes_held(self.state, self._steps, self._image)

    def open(self, image: UInt8[np.ndarray, "h w 3"], suggestions: tuple[str, ...] = ()) -> None:
        """Continue with another picture."""
        self.release()
        self._image = self._agent.prepare(image)
        opened = self._image.opened
        self._set(State(opened.image, suggestions=suggestions, familiar=opened.familiar, step="the new picture"))

    def restart(self) -> None:
        """The same picture, with an empty chat."""
        self._set(replace(self.state, lines=(), findings=(), chosen=None, step="clearing the chat"))
        self._update_conversation()

    def queue(self, message: Message) -> None:
        """Add a message to `waiting`, from which `answer` gets it."""
        self.waiting.append(message)

    def answer(self, message: Message) -> None:
        """Answer a message. Raises ValueError without a picture, and where the agent does."""
        self._set(self._answered(self.state, message))

    def correct(self, gesture: Gesture, mode: Mode) -> None:
        """Refine the current mask. Raises ValueError without one, and where the gesture cannot be used."""
        conversation, finding = self._current_conversation(), self.state.finding
        if mode == "box":
            reply = conversation.refine(box=gesture.box())
        else:
            reply = conversation.refine(clicks=[gesture.click(mode)])
        assert finding is not None, "what the conversation refines is the current finding"
        self.hidden.discard(finding.id)
        state = with_reply(self.state, gesture.text(mode), reply)
        self._set(replace(state, findings=changed(state.findings, finding.id, *reply.predictions)))

    def trust(self, id: int) -> None:
        """Show the mask of finding `id` although it is doubtful. Raises ValueError as `_find`."""
        self.answer(Message(self._find(id).prediction.query, "segmentation", trust=True))

    def trust_picture(self) -> None:
        """Show the masks of this picture although it is unfamiliar to the model: of all queries, past and future."""
        state = replace(self.state, trust=True)
        for one in self.state.findings:
            if one.doubted:
                state = self._answered(state, Message(one.prediction.query, "segmentation", trust=True))
        self._set(replace(state, step="showing masks anyway"))

    def choose(self, id: int) -> None:
        """Make finding `id` the current one. This is no step to undo. Raises ValueError as `_find`."""
        self.state = replace(self.state, chosen=self._find(id).id)
        self._update_conversation()

    def remove(self, id: int) -> None:
        """Remove finding `id`. Raises ValueError as `_find`."""
        removed = self._find(id)
        left = tuple(one for one in self.state.findings if one is not removed)
        chosen = left[-1].id if left and self.state.chosen == id else self.state.chosen
        step = f"removing {removed.prediction.query!r}"
        self._set(replace(self.state, findings=left, chosen=chosen if left else None, step=step))
        self._update_conversation()

    def hide(self, id: int, hidden: bool) -> None:
        """Switch finding `id` off or on."""
        (self.hidden.add if hidden else self.hidden.discard)(id)

    def undo(self) -> None:
        """Back to the state before the last step. Raises ValueError when there is none."""
        if not self._steps:
            raise ValueError("there is nothing to undo")
        before, self.state = self.state, self._steps.pop()
        if before.image is not self.state.image:
            self.release()
        self._update_conversation()

    def forget_step(self) -> bool:
        """Forget the oldest step; False when there is none."""
        if self._steps:
            self._steps.popleft()
            return True
        return False

    def note(self, message: str | None, text: str) -> None:
        """Add a text of the page to the chat, after the message that led to it."""
        lines = () if not message else (ChatLine("user", message),)
        lines = (*self.state.lines, *lines, ChatLine("assistant", text))
        self._set(replace(self.state, lines=lines, step=message or text))

    def release(self) -> None:
        """Release the memory of what can be computed again from the picture."""
        self._image = self._conversation = None

    def _answered(self, state: State, message: Message) -> State:
        """The state after the answer to a message."""
        trust = message.trust or state.trust
        reply = self._current_conversation().say(message.text, route=message.route, trust=trust)
        state = with_reply(state, message.text, reply, reply.route)
        for prediction in reply.predictions:
            findings, new, removed = put(state.findings, prediction, self._limits.findings, trust)
            self.hidden.discard(new.id)
            notes = (ChatLine("assistant", _removed_text(one)) for one in removed)
            state = replace(state, findings=findings, chosen=new.id, lines=(*state.lines, *notes))
        return state

    def _set(self, state: State) -> None:
        if self.state.image is not None:
            self._steps.append(self.state)
        self.state = state

    def _find(self, id: int) -> Finding:
        """Raises ValueError where it was removed."""
        for one in self.state.findings:
            if one.id == id:
                return one
        raise ValueError("this mask is no longer there; choose one of the legend")

    def _update_conversation(self) -> None:
        """The conversation is about the current finding from now on."""
        if self._conversation is not None:
            finding = self.state.finding
            self._conversation.point_at(() if finding is None else (finding.prediction,))

    def _current_conversation(self) -> Conversation:
        if self.state.image is None:
            raise ValueError(
                "there is no picture (or it was forgotten, after a long pause or a restart of the server); "
                "choose or upload one first"
            )
        if self._conversation is None:
            self._image = self._image or self._agent.prepare(self.state.image)
            self._conversation = self._agent.start(self._image)
            self._update_conversation()
        return self._conversation


def _removed_text(finding: Finding) -> str:
    return f"The mask of {finding.prediction.query!r} was taken off to make room."
