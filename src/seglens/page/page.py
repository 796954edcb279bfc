"""The page: what happens when a visitor does something. Every handler reads and returns that visitor's own `Visit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from html import escape
from typing import Any

import gradio as gr

from seglens.agent import Agent, Route
from seglens.data.images import load_image
from seglens.page.examples import EXAMPLES
from seglens.page.limits import Limits
from seglens.page.takeaway import takeaway
from seglens.page.view import view_of
from seglens.page.visit import Gesture, Line, Mode, Visit
from seglens.page.widgets import ROUTE_NAMES, Widgets

MENDABLE = (ValueError, OSError)  # told in words; anything else is a mistake of ours

Shown = dict[Any, Any]  # what widgets show next


class Page:
    """The handlers of one page, around one agent and the widgets that they fill."""

    def __init__(self, agent: Agent, limits: Limits, widgets: Widgets):
        self.agent, self.limits, self.on = agent, limits, widgets
        self._filled = [
            widgets.visit, widgets.stage, widgets.files, widgets.chat, widgets.scores, widgets.tries, widgets.words
        ]  # fmt: skip

    def connect(self) -> None:
        """Tell every widget what to do. One concurrency group: one model, one computation at a time."""
        on, once = self.on, {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        on.upload.upload(self.receive, [on.upload, on.visit], self._filled, **once)
        on.examples.select(self.choose, [on.visit], self._filled, **once)
        gr.on([on.words.submit], self.say, [on.words, on.route, on.trust, on.visit], self._filled, **once)
        on.tries.click(self.try_out, [on.tries, on.route, on.trust, on.visit], self._filled, **once)
        on.chat.clear(self.restart, [on.visit], self._filled, **once)
        on.stage.select(self.correct, [on.mode, on.visit], self._filled, **once)

    def receive(self, file: bytes, visit: Visit | None) -> Shown:
        """A picture was uploaded."""
        visit = visit or Visit()
        with told(visit):
            visit.open(self.agent, load_image(file))
        return self._show(visit, tries=())

    def choose(self, visit: Visit | None, event: gr.EventData) -> Shown:
        """An example was chosen."""
        visit, example = visit or Visit(), EXAMPLES[int(event.number) % len(EXAMPLES)]
        with told(visit):
            visit.open(self.agent, example.image)
        return self._show(visit, tries=example.words)

    def say(self, words: str, route: str, trust: bool, visit: Visit | None) -> Iterator[Shown]:
        """A message was sent: shown at once, and then its answer."""
        visit = visit or Visit()
        visit.hear(words)
        yield {self.on.visit: visit, self.on.chat: _talk(visit), self.on.words: ""}
        with told(visit):
            visit.answer(words, None if route == "auto" else route, trust)
        yield self._show(visit)

    def try_out(self, row: list[str], route: str, trust: bool, visit: Visit | None) -> Iterator[Shown]:
        """A suggestion was pressed."""
        yield from self.say(row[0], route, trust, visit)

    def correct(self, mode: Mode, visit: Visit | None, event: gr.EventData) -> Shown:
        """The picture was clicked, or a box was drawn on it."""
        visit = visit or Visit()
        with told(visit):
            visit.correct(Gesture.model_validate({"start": event.start, "end": event.end}), mode)
        return self._show(visit)

    def restart(self, visit: Visit | None) -> Shown:
        """The talk was cleared: the same picture, with nothing said of it."""
        visit = visit or Visit()
        if visit.talk is not None:
            visit.open(self.agent, visit.talk.image)
        return self._show(visit)

    def _show(self, visit: Visit, tries: tuple[str, ...] | None = None) -> Shown:
        """All that there is to see of a visit; `tries`: the suggestions, when they change."""
        shown: Shown = {self.on.visit: visit, self.on.chat: _talk(visit), self.on.scores: _scores(visit)}
        if visit.talk is not None:
            predictions = visit.talk.predictions
            shown[self.on.stage] = asdict(view_of(visit.talk.image, predictions, self.limits.side))
            shown[self.on.files] = [asdict(file) for file in takeaway(predictions)]
        if tries is not None:
            shown[self.on.tries] = gr.Dataset(samples=[[text] for text in tries], visible=bool(tries))
        return shown


@contextmanager
def told(visit: Visit) -> Iterator[None]:
    """An error that a visitor can mend is a line of the talk and a note on the page, which goes on."""
    try:
        yield
    except MENDABLE as error:
        line = " ".join(str(error).split()) or type(error).__name__
        visit.complain(line)
        gr.Warning(escape(line), title="That did not work")


def _talk(visit: Visit) -> list[dict[str, Any]]:
    return [_message(line) for line in visit.lines]


def _message(line: Line) -> dict[str, Any]:
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
