"""The page: what happens when a visitor does something. Every handler reads and changes that visitor's own `Visit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from html import escape
from typing import Any, Literal

import gradio as gr

from seglens.agent import Agent, Route
from seglens.core.schema import WireModel
from seglens.data.images import load_image
from seglens.serving.web.downloads import takeaway
from seglens.serving.web.examples import EXAMPLES
from seglens.serving.web.page_limits import PageLimits
from seglens.serving.web.session import ChatLine, Gesture, Message, Mode, Visit
from seglens.serving.web.view import html_of, view_of
from seglens.serving.web.visits import Visits
from seglens.serving.web.widgets import ROUTE_NAMES, TICKET, Widgets

MENDABLE = (ValueError, OSError)  # told in words; anything else is a mistake of ours
GONE = "The picture and the talk of this page are gone: {} Choose or upload a picture to begin again."
RESTARTED = GONE.format(
    "the server was started anew, or nothing was said for a long time. It keeps them in memory only."
)
FORGOTTEN = GONE.format("nothing was said for a long time, or others needed the room.")
QUEUED = "It opens as soon as what you asked before is done. Nothing is lost: you can go on meanwhile."

Shown = dict[Any, Any]  # what widgets show next


class Edit(WireModel):
    """A button of the legend, or of the picture, was pressed."""

    act: Literal["choose", "trust", "remove", "undo"]
    id: int = 0  # of the finding; 0: the picture


class PageHandlers:
    """The handlers of one page, around one agent and the widgets that they fill."""

    def __init__(self, agent: Agent, limits: PageLimits, widgets: Widgets):
        self.agent, self.limits, self.on = agent, limits, widgets
        self.visits = Visits(limits)
        self._filled = [widgets.key, widgets.stage, widgets.files, widgets.chat, widgets.scores, widgets.tries]

    def connect(self, blocks: gr.Blocks) -> None:
        """Tell every widget what to do.

        What needs the model is done one after the other, in the order in which it was asked, and nothing that is asked
        meanwhile is dropped ("multiple"). What only notes or shows something is done at once."""
        on, filled = self.on, self._filled
        always: dict[str, Any] = {"trigger_mode": "multiple", "api_visibility": "private"}
        model = {**always, "concurrency_id": "model", "concurrency_limit": 1}
        light = {**always, "concurrency_id": "light", "concurrency_limit": None, "show_progress": "hidden"}
        on.upload.upload(self.announce, [on.key], None, **light)
        on.upload.upload(self.receive, [on.upload, on.key], filled, **model)
        on.examples.select(self.announce, [on.key], None, **light)
        on.examples.select(self.choose, [on.key], filled, **model)
        for heard in (
            on.words.submit(self.hear, [on.words, on.route, on.key], [on.key, on.chat], **light),
            on.tries.click(self.try_out, [on.tries, on.route, on.key], [on.key, on.chat], **light),
        ):
            heard.then(self.answer, [on.key], filled, **model)
        on.words.submit(None, None, on.words, js="() => ''")  # at once: what is typed next is another message
        on.chat.clear(self.restart, [on.key], filled, **model)
        on.stage.select(self.correct, [on.mode, on.key], filled, **model)
        on.stage.edit(self.edit, [on.key], filled, **model)
        on.stage.input(self.toggle, [on.key], None, **light)
        back = blocks.load(self.come_back, [on.ticket, on.key], filled, js=TICKET, **light)
        back.then(self.answer, [on.key], filled, **model, show_progress="hidden")

    def announce(self, key: str | None) -> None:
        """A picture is on its way: say so where it has to wait."""
        visit = self.visits.find(key or "")
        if visit is not None and (visit.busy is not None or visit.waiting):
            gr.Info(QUEUED, title="Your picture waits")

    def receive(self, file: bytes, key: str | None) -> Shown:
        """A picture was uploaded."""
        with self._deed(key) as (key, visit):
            visit.open(load_image(file))
        return self._show(key, visit)

    def choose(self, key: str | None, event: gr.EventData) -> Shown:
        """An example was chosen."""
        example = EXAMPLES[int(event.number) % len(EXAMPLES)]
        with self._deed(key) as (key, visit):
            visit.open(example.image, example.words)
        return self._show(key, visit)

    def hear(self, words: str, route: str, key: str | None) -> Shown:
        """A message was sent: shown at once. `answer` follows."""
        key, visit = self._enter(key)
        visit.hear(Message(words, None if route == "auto" else route))
        return {self.on.key: key, self.on.chat: _talk(visit)}

    def try_out(self, row: list[str], route: str, key: str | None) -> Shown:
        """A suggestion was pressed."""
        return self.hear(row[0], route, key)

    def answer(self, key: str | None) -> Iterator[Any]:
        """Every message that waits is answered; after a reload, also those whose page is gone."""
        visit = self.visits.find(key or "")
        if key is None or visit is None:
            yield gr.skip()
            return
        if not visit.waiting:  # what an earlier page asked for may have come meanwhile
            yield self._show(key, visit)
        while visit.waiting:
            message = visit.waiting.popleft()
            with self._deed(key, message.words) as (key, visit):
                visit.answer(message)
            yield self._show(key, visit)

    def correct(self, mode: Mode, key: str | None, event: gr.EventData) -> Shown:
        """The picture was clicked, or a box was drawn on it."""
        gesture = Gesture.model_validate({"start": event.start, "end": event.end})
        with self._deed(key, gesture.says(mode)) as (key, visit):
            visit.correct(gesture, mode)
        return self._show(key, visit)

    def edit(self, key: str | None, event: gr.EventData) -> Shown:
        """A mask was chosen or taken off, or the last step is undone."""
        edit = Edit.model_validate(event._data)
        with self._deed(key) as (key, visit):
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
        return self._show(key, visit)

    def toggle(self, key: str | None, event: gr.EventData) -> None:
        """A mask was switched off or on; the browser has shown that already."""
        visit = self.visits.find(key or "")
        if visit is not None:
            visit.hide(int(event.id), not event.shown)

    def restart(self, key: str | None) -> Shown:
        """The talk was cleared: the same picture, with nothing said of it."""
        with self._deed(key) as (key, visit):
            visit.restart()
        return self._show(key, visit)

    def come_back(self, ticket: str, key: str | None) -> Any:
        """The page was opened, or opened again: `ticket` is the key that this tab had before."""
        if key or not ticket:
            return gr.skip()
        visit = self.visits.find(ticket)
        if visit is not None:
            return self._show(ticket, visit)
        key, visit = self._enter(None)
        visit.note(None, RESTARTED)
        return self._show(key, visit)

    def _enter(self, key: str | None) -> tuple[str, Visit]:
        """The visit of that key; a new one, which says so, where it was forgotten."""
        visit = self.visits.find(key or "")
        if key and visit is not None:
            return key, visit
        visit = Visit(self.agent, self.limits)
        if key:
            visit.note(None, FORGOTTEN)
        return self.visits.add(visit), visit

    @contextmanager
    def _deed(self, key: str | None, said: str = "") -> Iterator[tuple[str, Visit]]:
        """Work on a visit. An error that the visitor can mend is a line of the talk, after what was `said`, and a note
        on the page, which goes on."""
        key, visit = self._enter(key)
        visit.busy = said
        try:
            yield key, visit
        except MENDABLE as error:
            line = " ".join(str(error).split()) or type(error).__name__
            visit.note(said, f"⚠️ {line}")
            gr.Warning(escape(line), title="That did not work")
        finally:
            visit.busy = None
            self.visits.measure(key)

    def _show(self, key: str, visit: Visit) -> Shown:
        """All that there is to see of a visit."""
        state, on = visit.state, self.on
        found = [one.prediction for one in state.findings]
        view, undoes = view_of(state, self.limits.side, visit.hidden), visit.undoes
        return {
            on.key: key,
            on.chat: _talk(visit),
            on.scores: _scores(visit),
            on.stage: None if view is None else {**asdict(view), "ticket": key, "undo": undoes and html_of(undoes)},
            on.files: [asdict(file) for file in takeaway(found)],
            on.tries: gr.Dataset(samples=[[text] for text in state.tries], visible=bool(state.tries)),
        }


def _talk(visit: Visit) -> list[dict[str, Any]]:
    return [_message(line) for line in visit.lines]


def _message(line: ChatLine) -> dict[str, Any]:
    # Escaped, because the chat takes tags for HTML even where it renders no Markdown.
    message: dict[str, Any] = {"role": line.who, "content": escape(line.text, quote=False)}
    return message if line.route is None else {**message, "metadata": {"title": _way(line.route)}}


def _way(route: Route) -> str:
    """Which way a message went, and how sure the model was of it."""
    name = ROUTE_NAMES[route.intent]
    return f"{name}, as you chose" if route.given else f"{name} ({route.scores[route.intent]:.0%})"


def _scores(visit: Visit) -> Any:
    """The probabilities of the three routes for the last message, where the model chose."""
    routes = [line.route for line in visit.lines if line.route is not None]
    if not routes or not routes[-1].scores:
        return gr.Label(None, visible=False)
    return gr.Label({ROUTE_NAMES[name]: score for name, score in routes[-1].scores.items()}, visible=True)
