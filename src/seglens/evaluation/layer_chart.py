"""A value per layer, drawn: panels over one axis of layers, as a picture and as bars of text."""

from __future__ import annotations

import warnings
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES, PANEL, DPI = 9.6, 3.2, 100  # width of the picture, height of a panel, pixels per inch
INK, CLOSED, MARK = "#28282e", "#f0f0f3", "#d64020"
FOOTNOTE = "decoder layer, counted from 0 (on grey: no head can read there)"
LONGEST = 110  # characters of a title
BAR = 40  # characters of the longest bar


@dataclass(frozen=True)
class Panel:
    """One curve: a value per layer between two ends, and the level that a result without skill would have."""

    name: str
    values: Sequence[float]
    ends: Sequence[tuple[float, float]]
    level: float
    level_name: str
    colour: str  # as matplotlib takes it


def check_charts() -> None:
    """Raises ImportError without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("drawing a chart needs matplotlib; run: pip install 'seglens[plot]'") from error


def draw(title: str, note: str, panels: Sequence[Panel], marked: int, open_to: Container[int]) -> Image.Image:
    """Panels under one another. Layer `marked` is ringed and named; layers not in `open_to` stand on grey."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(chart(title, note, panels, marked, open_to))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a letter that the font lacks is drawn as a box
        canvas.draw()
    return Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")


def chart(title: str, note: str, panels: Sequence[Panel], marked: int, open_to: Container[int]) -> Figure:
    """The figure that `draw` makes a picture of."""
    from matplotlib.figure import Figure

    figure = Figure((INCHES, 1 + PANEL * len(panels)), DPI, layout="constrained")
    lines = [text if len(text) <= LONGEST else text[: LONGEST - 3] + "..." for text in (title, note)]
    figure.suptitle("\n".join(lines), fontsize="medium", parse_math=False)
    rows = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, panel in zip(rows, panels, strict=True):
        _draw_panel(axes, panel, marked, open_to)
    rows[-1].set_xlabel(FOOTNOTE)
    return figure


def _draw_panel(axes: Axes, panel: Panel, marked: int, open_to: Container[int]) -> None:
    from matplotlib.markers import MarkerStyle

    layers = range(len(panel.values))
    for layer in layers:
        if layer not in open_to:
            axes.axvspan(layer - 0.5, layer + 0.5, color=CLOSED, linewidth=0)
    low, high = zip(*panel.ends, strict=True)
    axes.fill_between(layers, low, high, color=panel.colour, alpha=0.25, linewidth=0)
    axes.axhline(panel.level, color=INK, linestyle="--", label=panel.level_name)
    axes.axvline(marked, color=MARK)
    axes.plot(layers, panel.values, color=panel.colour, marker="o", markersize=5)
    ring = MarkerStyle("o", fillstyle="none")
    axes.plot([marked], [panel.values[marked]], color=MARK, marker=ring, markersize=11, markeredgewidth=3)
    axes.annotate(str(marked), (marked, panel.values[marked]), (8, 8), textcoords="offset points", color=MARK)
    axes.set_title(panel.name, loc="left", fontsize="medium", color=panel.colour)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(bottom=0)
    axes.locator_params("x", integer=True)
    axes.grid(axis="y", alpha=0.5)
    axes.legend(loc="upper left", fontsize="small")


def bars(panel: Panel, marked: int, open_to: Container[int], words: Sequence[str]) -> list[str]:
    """The same curve as a line of text per layer, in ASCII; `words` end each."""
    top = max(*panel.values, 1e-9)
    lines = []
    for layer, (value, text) in enumerate(zip(panel.values, words, strict=True)):
        bar = "#" * round(BAR * value / top)
        note = "  <- read this one" if layer == marked else "" if layer in open_to else "  (no head can read here)"
        lines.append(f"{layer:>4}  {bar:<{BAR}}  {text}{note}")
    return lines
