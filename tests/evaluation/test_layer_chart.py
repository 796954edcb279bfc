"""The drawn curve: the right values at the right places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seglens.evaluation.layer_chart import CLOSED, GAP, LEFT, MARK, RIGHT, TITLE, Panel, bars, draw, ticks
from seglens.evaluation.layer_chart import PANEL as PANEL_HEIGHT

BLUE = (31, 98, 168)
PANEL = Panel("rate", [0.1, 0.2, 0.4, 0.3], [(0.1, 0.1), (0.2, 0.2), (0.4, 0.4), (0.3, 0.3)], 0.05, "blind", BLUE)


def close(pixels: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    return np.abs(pixels.astype(int) - colour).max(-1) <= 6


@given(st.floats(1e-6, 1e6))
def test_ticks_are_round_and_reach_the_top(top: float) -> None:
    marks = ticks(top)
    assert marks[0] == 0
    assert marks[-1] >= top * (1 - 1e-6)
    assert marks[-2] < top
    assert 2 <= len(marks) <= 7
    assert f"{marks[1]:e}".replace(".", "").lstrip("0")[:2] in ("10", "20", "25", "50")


def test_ticks_of_nothing() -> None:
    assert len(ticks(0)) == 2


def test_points_stand_at_their_values_and_the_chosen_one_is_marked() -> None:
    pixels = np.asarray(draw("title", "note", [PANEL], 2, range(1, 3)))
    step = (pixels.shape[1] - LEFT - RIGHT) / 4
    x = [round(LEFT + step * (n + 0.5)) for n in range(4)]
    below = np.arange(len(pixels))[:, None] > TITLE + GAP - 5  # the name of the panel is blue too
    heights = []
    for n in (0, 1, 3):
        rows = np.nonzero((close(pixels, BLUE) & below)[:, x[n]])[0]
        heights.append(TITLE + GAP + PANEL_HEIGHT - rows.mean())
    assert np.array(heights) == pytest.approx(np.array([0.1, 0.2, 0.3]) / 0.4 * PANEL_HEIGHT, abs=2)
    red = close(pixels, MARK)
    assert np.nonzero(red.sum(0) > 200)[0].mean() == pytest.approx(x[2], abs=1)  # the line
    ring = np.nonzero(red[:, x[2] - 9 : x[2] + 10].sum(1) > 3)[0]
    assert ring.min() == pytest.approx(TITLE + GAP - 8, abs=2)  # around the highest point
    grey = close(pixels, CLOSED).mean(0)[[at + 30 for at in x]] > 0.3
    assert grey.tolist() == [True, False, False, True]


@pytest.mark.parametrize("count", [1, 3, 28, 80])
def test_any_number_of_layers_and_any_words(count: int) -> None:
    values = list(np.linspace(0, 1, count))
    panel = replace(PANEL, values=values, ends=[(v, v) for v in values])
    image = draw("long " * 100, "雨 \0 " * 100, [panel, panel], count - 1, range(count))
    assert np.asarray(image).std() > 0
    assert (np.asarray(image)[:, -20:] == 255).all()  # nothing runs out of the picture


def test_a_curve_of_zeros() -> None:
    nothing = replace(PANEL, values=[0.0] * 4, ends=[(0.0, 0.0)] * 4, level=0.0)
    draw("t", "n", [nothing], 1, range(4))
    assert "#" not in "".join(bars(nothing, 1, range(4), ["x"] * 4))


def test_bars() -> None:
    lines = bars(PANEL, 2, range(1, 3), ["a", "b", "c", "d"])
    assert [line.count("#") for line in lines] == [10, 20, 40, 30]
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3"]
    assert ["read this one" in line for line in lines] == [False, False, True, False]
    assert ["no head can read" in line for line in lines] == [True, False, False, True]
    assert all(line.isascii() for line in lines)
