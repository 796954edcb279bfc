"""Which visits are kept, for how long and up to how much memory; and what the page shows about those that were not."""

from __future__ import annotations

from dataclasses import fields, replace
from unittest.mock import Mock

import gradio as gr
import numpy as np
import pytest

from seglens.agent import Agent
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter
from seglens.serving.web.examples import EXAMPLES
from seglens.serving.web.handlers import PageHandlers
from seglens.serving.web.page_limits import PageLimits
from seglens.serving.web.view import view_of
from seglens.serving.web.visit import Visit
from seglens.serving.web.visit_state import Gesture, Message
from seglens.serving.web.visits import Visits
from seglens.serving.web.widgets import Widgets

LIMITS = PageLimits()
CAT = "segment the cat."


@pytest.fixture(scope="module")
def agent(segmenter: Segmenter) -> Agent:
    return Agent(segmenter)


@pytest.fixture
def page(agent: Agent) -> PageHandlers:
    """Its handlers; what they fill goes by its name (real widgets leave an event loop open)."""
    return PageHandlers(agent, LIMITS, Mock(spec=Widgets, **{each.name: each.name for each in fields(Widgets)}))


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The notes that the page shows."""
    notes = list[str]()
    for kind in ("Info", "Warning"):
        monkeypatch.setattr(gr, kind, lambda text, title: notes.append(f"{title}: {text}"))
    return notes


def with_cat(agent: Agent, limits: PageLimits = LIMITS) -> Visit:
    visit = Visit(agent, limits)
    visit.open(EXAMPLES[0].image)
    visit.answer(Message(CAT))
    return visit


def test_a_visit_is_kept_for_its_time(agent: Agent) -> None:
    now = 0.0
    visits = Visits(LIMITS, lambda: now)
    key = visits.add(visit := Visit(agent, LIMITS))
    for _ in range(3):
        now += LIMITS.visit_seconds - 1
        assert visits.find(key) is visit, "each use counts anew"
    now += LIMITS.visit_seconds
    assert visits.find(key) is None


def test_the_longest_unused_visit_makes_room_for_a_new_one(agent: Agent) -> None:
    visits = Visits(replace(LIMITS, visits=2))
    first, second = (visits.add(Visit(agent, LIMITS)) for _ in range(2))
    assert first != second
    assert visits.find(first)
    third = visits.add(Visit(agent, LIMITS))
    assert [visits.find(key) is not None for key in (first, second, third)] == [True, False, True]


def test_memory_is_first_freed_of_what_can_be_computed_again(agent: Agent) -> None:
    away, here, third = (with_cat(agent) for _ in range(3))
    mask, whole = away.state.findings[0].prediction.mask, away.bytes
    third.release()
    resting = third.bytes
    assert resting < whole
    visits = Visits(replace(LIMITS, memory=whole + resting))
    keys = [visits.add(away), visits.add(here)]
    for key in keys:
        visits.measure(key)
    assert [visits.find(key) for key in keys] == [away, here], "both are still there"
    assert away.bytes == resting
    away.correct(Gesture(start=(110, 210), end=(110, 210)), "add")  # as if nothing had been let go
    assert away.state.findings[0].prediction.mask[210, 110]
    away.undo()
    np.testing.assert_array_equal(away.state.findings[0].prediction.mask, mask)

    visits = Visits(replace(LIMITS, memory=whole))
    keys = [visits.add(away), visits.add(here)]
    for key in keys:
        visits.measure(key)
    assert [visits.find(key) for key in keys] == [None, here], "then the one who was away goes"


def test_the_number_of_steps_is_limited_and_they_are_undone_one_by_one(agent: Agent) -> None:
    visit = with_cat(agent, replace(LIMITS, steps=2))
    for _ in range(3):
        visit.correct(Gesture(start=(110, 210), end=(110, 210)), "add")
    assert visit.undo_text == "(110, 210) belongs to it."
    visit.undo()
    visit.undo()
    assert len(visit.state.findings[0].prediction.corrections.clicks) == 1
    with pytest.raises(ValueError, match="nothing to undo"):
        visit.undo()


def test_too_many_queries_remove_the_oldest_and_the_chat_states_it(agent: Agent) -> None:
    visit = with_cat(agent, replace(LIMITS, findings=1))
    visit.answer(Message("segment the cup."))
    assert [one.prediction.query for one in visit.state.findings] == ["segment the cup."]
    assert visit.state.lines[-1].text == f"The mask of {CAT!r} was taken off to make room."
    visit.undo()
    assert [one.prediction.query for one in visit.state.findings] == [CAT]


def test_without_a_picture_the_error_states_what_to_do(agent: Agent) -> None:
    visit = Visit(agent, LIMITS)
    for deed in (
        lambda: visit.answer(Message("segment the cup.")),
        lambda: visit.correct(Gesture(start=(1, 1), end=(1, 1)), "add"),
    ):
        with pytest.raises(ValueError, match="choose or upload one first"):
            deed()


def test_a_visitor_whose_visit_was_removed_is_informed(page: PageHandlers, notes: list[str]) -> None:
    click = Mock(spec=gr.EventData, start=(1, 1), end=(1, 1))
    page_after = page.correct("add", "the key of someone who was forgotten", click)
    assert "the page was not used for a long time" in page_after[page.widgets.chat][0]["content"]
    assert page.visits.find(page_after[page.widgets.key])


def test_a_picture_that_has_to_wait_is_announced(page: PageHandlers, agent: Agent, notes: list[str]) -> None:
    key = page.visits.add(visit := Visit(agent, LIMITS))
    page.announce(key)
    assert notes == []
    visit.busy = "segment the cat."
    page.announce(key)
    visit.busy = None
    visit.queue(Message("segment the cup."))
    page.announce(key)
    assert [line.partition(":")[0] for line in notes] == ["Your picture waits"] * 2


def test_what_was_asked_before_a_reload_is_answered_after_it(page: PageHandlers, agent: Agent) -> None:
    key = page.visits.add(visit := with_cat(agent))
    visit.queue(Message("segment the cup."))
    page_after = page.restore(key, None)
    assert [line["content"] for line in page_after[page.widgets.chat]][-1] == "segment the cup."
    visit.queue(Message("what colour is it?"))  # sent before the page had caught up
    *_, page_after = page.answer(key)
    assert [one.prediction.query for one in visit.state.findings] == [CAT, "segment the cup."]
    assert page_after[page.widgets.chat][-2]["content"] == "what colour is it?"
    assert not visit.waiting


def test_masks_of_a_strange_picture_are_shown_when_asked_for(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenedImage, "familiar", property(lambda _: False))
    visit = with_cat(agent)
    visit.answer(Message("segment the cup."))
    view = view_of(visit.state, LIMITS.side)
    assert view is not None
    assert view.strange
    assert [(one.mask, one.doubted) for one in view.layers] == [(None, True)] * 2
    assert (view.heat, view.keypoints) == (None, ()), "nothing suggests that something was found"
    visit.trust(view.layers[0].id)
    assert [one.prediction.found for one in visit.state.findings] == [True, False]
    visit.trust_picture()
    assert [one.prediction.found for one in visit.state.findings] == [True, True]
    visit.answer(Message("segment the clock."))
    assert visit.state.findings[-1].prediction.found
    visit.answer(Message("segment the elephant."))
    assert not visit.state.findings[-1].prediction.found
    assert not visit.state.findings[-1].doubted, "it is not there, and no trust would show it"
    for _ in range(3):
        visit.undo()
    assert not visit.state.trust
    assert [one.prediction.found for one in visit.state.findings] == [True, False]
