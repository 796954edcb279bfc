"""The chat of a visit as gradio's widgets show it."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from seglens.agent import Route
from seglens.serving.web.visit import Visit
from seglens.serving.web.visit_state import ChatLine
from seglens.serving.web.widgets import ROUTE_NAMES


def chat_messages(visit: Visit) -> list[dict[str, Any]]:
    return [_message(line) for line in visit.lines]


def route_scores(visit: Visit) -> Any:
    """The probabilities of the three routes for the last message, where the model chose its route."""
    routes = [line.route for line in visit.lines if line.route is not None]
    if not routes or not routes[-1].scores:
        return gr.Label(None, visible=False)
    return gr.Label({ROUTE_NAMES[name]: score for name, score in routes[-1].scores.items()}, visible=True)


def _message(line: ChatLine) -> dict[str, Any]:
    # Escaped, because the chat reads tags as HTML even where it renders no Markdown.
    message: dict[str, Any] = {"role": line.role, "content": escape(line.text, quote=False)}
    return message if line.route is None else {**message, "metadata": {"title": _route_text(line.route)}}


def _route_text(route: Route) -> str:
    """The route of a message, and its probability."""
    name = ROUTE_NAMES[route.intent]
    return f"{name}, as you chose" if route.given else f"{name} ({route.scores[route.intent]:.0%})"
