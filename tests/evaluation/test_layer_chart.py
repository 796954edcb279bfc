"""The drawn curve: the right values at the right places."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from seglens.evaluation.layer_chart import CLOSED, MARK, Panel, bars, chart, check_charts, draw

BLUE = "#1f62a8"
PANEL = Panel("rate", [0.1, 0.2, 0.4, 0.3], [(0.1, 0.1), (0.2, 0.2), (0.4, 0.5), (0.3, 0.3)], 0.05, "blind", BLUE)


def test_points_stand_at_their_values_and_the_chosen_one_is_marked() -> None:
    second = replace(PANEL, name="lift", values=[4.0, 3.0, 2.0, 1.0])
    figure = chart("title", "note", [PANEL, second], 2, range(1, 3))
    assert figure.get_suptitle() == "title\nnote"
    for axes, panel in zip(figure.axes, [PANEL, second], strict=True):
        level, line, curve, ring = axes.lines
        assert axes.get_title("left") == panel.name
        assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([0, 1, 2, 3], panel.values)
        assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([2], [panel.values[2]])
        assert (set(level.get_ydata()), set(line.get_xdata())) == ({panel.level}, {2})
        assert (to_hex(curve.get_color()), to_hex(line.get_color())) == (BLUE, MARK)
        assert [one.get_text() for one in axes.texts] == ["2"]
        assert [one.get_text() for one in axes.get_legend().get_texts()] == ["blind"]
        closed = [one.get_x() + 0.5 for one in axes.patches if to_hex(one.get_facecolor()) == CLOSED]
        assert closed == [0, 3]  # layers that no head can read
        assert axes.get_ylim()[0] == 0
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[band[:, 0] == 2, 1].max() == 0.5


@pytest.mark.parametrize("count", [1, 3, 28, 80])
def test_any_number_of_layers_and_any_words(count: int) -> None:
    values = list(np.linspace(0, 1, count))
    panel = replace(PANEL, values=values, ends=[(v, v) for v in values])
    pixels = np.asarray(draw("long " * 100, "雨 $x_ " * 100, [panel, panel], count - 1, range(count)))
    assert pixels.std() > 0
    edges = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel(), pixels[:, :2].ravel(), pixels[:, -2:].ravel()])
    assert (edges == 255).all()  # nothing runs out of the picture


def test_a_curve_of_zeros() -> None:
    nothing = replace(PANEL, values=[0.0] * 4, ends=[(0.0, 0.0)] * 4, level=0.0)
    assert np.asarray(draw("t", "n", [nothing], 1, range(4))).std() > 0
    assert "#" not in "".join(bars(nothing, 1, range(4), ["x"] * 4))


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    check_charts()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'seglens\[plot\]'"):
        check_charts()


def test_bars() -> None:
    lines = bars(PANEL, 2, range(1, 3), ["a", "b", "c", "d"])
    assert [line.count("#") for line in lines] == [10, 20, 40, 30]
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3"]
    assert ["read this one" in line for line in lines] == [False, False, True, False]
    assert ["no head can read" in line for line in lines] == [True, False, False, True]
    assert all(line.isascii() for line in lines)
