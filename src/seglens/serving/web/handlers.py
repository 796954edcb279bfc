"""The handlers of the page's events. Each reads and changes the `Visit` of the visitor who caused the event."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from html import escape
from typing import Any, Literal

import gradio as gr

from seglens.agent import Agent
from seglens.core.schema import WireModel
from seglens.data.images import load_image
from seglens.serving.web.chat_messages import chat_messages, route_scores
from seglens.serving.web.downloads import downloads
from seglens.serving.web.examples import EXAMPLES
from seglens.serving.web.page_limits import PageLimits
from seglens.serving.web.view import html_of, view_of
from seglens.serving.web.visit import Visit
from seglens.serving.web.visit_state import Gesture, Message, Mode
from seglens.serving.web.visits import Visits
from seglens.serving.web.widgets import TICKET, Widgets

EXPECTED = (ValueError, OSError)  # reported to the visitor; any other error is one of the program
GONE = "The picture and the chat of this page are gone: {} Choose or upload a picture to begin again."
RESTARTED = GONE.format(
    "the server was restarted, or the page was not used for a long time. They are stored in memory only."
)
FORGOTTEN = GONE.format("the page was not used for a long time, or other visitors needed the memory.")
QUEUED = "It opens as soon as your earlier requests are done. Nothing is lost: you can continue meanwhile."

Updates = dict[Any, Any]  # new values by widget


class Edit(WireModel):
    """A button of the legend, or of the picture, that was pressed."""

    act: Literal["choose", "trust", "remove", "undo"]
    id: int = 0  # of the finding; 0: the picture


class PageHandlers:
    """The handlers of one page, with its agent and the widgets that they fill."""

    def __init__(self, agent: Agent, limits: PageLimits, widgets: Widgets):
        self.agent, self.limits, self.widgets = agent, limits, widgets
        self.visits = Visits(limits)
        self._filled = [widgets.key, widgets.stage, widgets.files, widgets.chat, widgets.scores, widgets.suggestions]

    def connect(self, blocks: gr.Blocks) -> None:
        """Connect the widgets' events to their handlers.

        Handlers that need the model run one after the other, in the order of the events, and no event is dropped
        meanwhile ("multiple"). The others run at once."""
        on, filled = self.widgets, self._filled
        always: dict[str, Any] = {"trigger_mode": "multiple", "api_visibility": "private"}
        model = {**always, "concurrency_id": "model", "concurrency_limit": 1}
        light = {**always, "concurrency_id": "light", "concurrency_limit": None, "show_progress": "hidden"}
        on.upload.upload(self.announce, [on.key], None, **light)
        on.upload.upload(self.receive, [on.upload, on.key], filled, **model)
        on.examples.select(self.announce, [on.key], None, **light)
        on.examples.select(self.choose, [on.key], filled, **model)
        for sent in (
            on.message.submit(self.send, [on.message, on.route, on.key], [on.key, on.chat], **light),
            on.suggestions.click(self.send_suggestion, [on.suggestions, on.route, on.key], [on.key, on.chat], **light),
        ):
            sent.then(self.answer, [on.key], filled, **model)
        on.message.submit(None, None, on.message, js="() => ''")  # at once: the next text is another message
        on.chat.clear(self.restart, [on.key], filled, **model)
        on.stage.select(self.correct, [on.mode, on.key], filled, **model)
        on.stage.edit(self.edit, [on.key], filled, **model)
        on.stage.input(self.toggle, [on.key], None, **light)
        loaded = blocks.load(self.restore, [on.ticket, on.key], filled, js=TICKET, **light)
        loaded.then(self.answer, [on.key], filled, **model, show_progress="hidden")

    def announce(self, key: str | None) -> None:
        """A picture was sent: show a note if it has to wait."""
        visit = self.visits.find(key or "")
        if visit is not None and (visit.busy is not None or visit.waiting):
            gr.Info(QUEUED, title="Your picture waits")

    def receive(self, file: bytes, key: str | None) -> Updates:
        """A picture was uploaded."""
        with self._step(key) as (key, visit):
            visit.open(load_image(file))
        return self._updates(key, visit)

    def choose(self, key: str | None, event: gr.EventData) -> Updates:
        """An example was chosen."""
        example = EXAMPLES[int(event.number) % len(EXAMPLES)]
        with self._step(key) as (key, visit):
            visit.open(example.image, example.suggestions)
        return self._updates(key, visit)

    def send(self, text: str, route: str, key: str | None) -> Updates:
        """A message was sent: it is shown at once. `answer` follows."""
        key, visit = self._enter(key)
        visit.queue(Message(text, None if route == "auto" else route))
        return {self.widgets.key: key, self.widgets.chat: chat_messages(visit)}

    def send_suggestion(self, row: list[str], route: str, key: str | None) -> Updates:
        """A suggestion was pressed."""
        return self.send(row[0], route, key)

    def answer(self, key: str | None) -> Iterator[Any]:
        """Answer every message that waits; after a reload, also those that were sent before it."""
        visit = self.visits.find(key or "")
        if key is None or visit is None:
            yield gr.skip()
            return
        if not visit.waiting:  # an answer to the page before a reload may have come meanwhile
            yield self._updates(key, visit)
        while visit.waiting:
            message = visit.waiting.popleft()
            with self._step(key, message.text) as (key, visit):
                visit.answer(message)
            yield self._updates(key, visit)

    def correct(self, mode: Mode, key: str | None, event: gr.EventData) -> Updates:
        """The picture was clicked, or a box was drawn on it."""
        gesture = Gesture.model_validate({"start": event.start, "end": event.end})
        with self._step(key, gesture.text(mode)) as (key, visit):
            visit.correct(gesture, mode)
        return self._updates(key, visit)

    def edit(self, key: str | None, event: gr.EventData) -> Updates:
        """A mask was chosen or removed, or the last step is undone."""
        edit = Edit.model_validate(event._data)
        with self._step(key) as (key, visit):
            match edit.act:
                case "choose":
                    visit.choose(edit.id)
                case "trust" if edit.id:
                    visit.trust(edit.id)
                case "trust":
                    visit.trust_picture()
                case "remove":
                    visit.remove(edit.id)
                case "undo":
                    visit.undo()
        return self._updates(key, visit)

    def toggle(self, key: str | None, event: gr.EventData) -> None:
        """A mask was switched off or on, which the browser has shown already."""
        visit = self.visits.find(key or "")
        if visit is not None:
            visit.hide(int(event.id), not event.shown)

    def restart(self, key: str | None) -> Updates:
        """The chat was cleared: the same picture, with an empty chat."""
        with self._step(key) as (key, visit):
            visit.restart()
        return self._updates(key, visit)

    def restore(self, ticket: str, key: str | None) -> Any:
        """The page was opened, or loaded again: `ticket` is the key that this tab had before."""
        if key or not ticket:
            return gr.skip()
        visit = self.visits.find(ticket)
        if visit is not None:
            return self._updates(ticket, visit)
        key, visit = self._enter(None)
        visit.note(None, RESTARTED)
        return self._updates(key, visit)

    def _enter(self, key: str | None) -> tuple[str, Visit]:
        """The visit of that key; a new one, with a note, where it was removed."""
        visit = self.visits.find(key or "")
        if key and visit is not None:
            return key, visit
        visit = Visit(self.agent, self.limits)
        if key:
            visit.note(None, FORGOTTEN)
        return self.visits.add(visit), visit

    @contextmanager
    def _step(self, key: str | None, text: str = "") -> Iterator[tuple[str, Visit]]:
        """Work on a visit. An expected error becomes a line of the chat, after the visitor's `text`, and a note on the
        page, which stays usable."""
        key, visit = self._enter(key)
        visit.busy = text
        try:
            yield key, visit
        except EXPECTED as error:
            line = " ".join(str(error).split()) or type(error).__name__
            visit.note(text, f"⚠️ {line}")
            gr.Warning(escape(line), title="That did not work")
        finally:
            visit.busy = None
            self.visits.measure(key)

    def _updates(self, key: str, visit: Visit) -> Updates:
        """All that the page shows of a visit."""
        state, on = visit.state, self.widgets
        view, undo = view_of(state, self.limits.side, visit.hidden), visit.undo_text
        suggestions = [[text] for text in state.suggestions]
        return {
            on.key: key,
            on.chat: chat_messages(visit),
            on.scores: route_scores(visit),
            on.stage: None if view is None else {**asdict(view), "ticket": key, "undo": undo and html_of(undo)},
            on.files: [asdict(file) for file in downloads([one.prediction for one in state.findings])],
            on.suggestions: gr.Dataset(samples=suggestions, visible=bool(suggestions)),
        }
