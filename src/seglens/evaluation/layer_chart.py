"""A value per layer, drawn: panels over one axis of layers, as a picture and as bars of text."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, ...]  # RGB
Number = int | float
Point = tuple[Number, Number]  # x, y from the top left
WIDTH, PANEL, TITLE, FOOT = 960, 250, 34, 64  # pixels: of the picture, of a panel, above and below the panels
LEFT, RIGHT, GAP = 72, 28, 76  # free beside the panels, and above each for its name
SMOOTH = 3  # drawn so many times larger, for smooth lines
WHITE, INK, FAINT, CLOSED, MARK = (255, 255, 255), (40, 40, 46), (214, 214, 220), (240, 240, 243), (214, 64, 32)
FOOTNOTE = "decoder layer, counted from 0 (on grey: no head can read there)"
BAR = 40  # characters of the longest bar


@dataclass(frozen=True)
class Panel:
    """One curve: a value per layer between two ends, and a level that says what nothing would be."""

    name: str
    values: Sequence[float]
    ends: Sequence[tuple[float, float]]
    level: float
    level_name: str
    colour: Colour


def ticks(top: Number, most: int = 5) -> list[float]:
    """Round numbers from 0 up to the first that is not below `top`, about `most` of them."""
    size = 10.0 ** math.floor(math.log10(max(top, 1e-9) / most))
    step = next(size * n for n in (1, 2, 2.5, 5, 10) if size * n * most >= top * (1 - 1e-9))
    return [step * n for n in range(max(math.ceil(top / step - 1e-9), 1) + 1)]


def draw(title: str, note: str, panels: Sequence[Panel], marked: int, open_to: Container[int]) -> Image.Image:
    """Panels under one another. Layer `marked` is ringed and named; layers not in `open_to` stand on grey."""
    pen = _Pen.of(len(panels))
    pen.text((LEFT, 14), title, 20)
    pen.text((LEFT, 40), note, 13)
    for n, panel in enumerate(panels):
        _draw_panel(pen, panel, TITLE + n * (PANEL + GAP) + GAP, marked, open_to)
    height = TITLE + len(panels) * (PANEL + GAP)
    pen.text(((LEFT + WIDTH - RIGHT) / 2, height + FOOT - 24), FOOTNOTE, 14, "mm")
    return pen.image.resize((WIDTH, height + FOOT), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class _Pen:
    """Draws in pixels of the finished picture."""

    image: Image.Image
    on: ImageDraw.ImageDraw

    @classmethod
    def of(cls, panels: int) -> _Pen:
        height = TITLE + panels * (PANEL + GAP) + FOOT
        image = Image.new("RGB", (WIDTH * SMOOTH, height * SMOOTH), WHITE)
        return cls(image, ImageDraw.Draw(image))

    def text(self, at: Point, words: str, size: int, anchor: str = "la", colour: Colour = INK) -> None:
        font = ImageFont.load_default(size * SMOOTH)
        while len(words) > 4 and font.getlength(words) > (WIDTH - LEFT - RIGHT) * SMOOTH:
            words = words[:-4] + "..."
        self.on.text((at[0] * SMOOTH, at[1] * SMOOTH), words, colour, font, anchor)

    def line(self, points: Sequence[Point], colour: Colour, width: Number = 1) -> None:
        self.on.line([(x * SMOOTH, y * SMOOTH) for x, y in points], colour, round(width * SMOOTH), "curve")

    def dashes(self, ends: Point, y: float, colour: Colour) -> None:
        for start in range(int(ends[0]), int(ends[1]), 10):
            self.line([(start, y), (min(start + 5, ends[1]), y)], colour, 1.5)

    def dot(self, at: Point, radius: Number, fill: Colour, ring: Colour, width: Number = 2) -> None:
        corners = [(v + side * radius) * SMOOTH for side in (-1, 1) for v in at]
        self.on.ellipse(corners, fill, ring, round(width * SMOOTH))

    def box(self, corners: tuple[Number, ...], fill: Colour) -> None:
        self.on.rectangle([v * SMOOTH for v in corners], fill)

    def area(self, points: Sequence[Point], fill: Colour) -> None:
        self.on.polygon([(x * SMOOTH, y * SMOOTH) for x, y in points], fill)


def _draw_panel(pen: _Pen, panel: Panel, above: int, marked: int, open_to: Container[int]) -> None:
    marks = ticks(max(panel.level, *(high for _, high in panel.ends)))
    count, below, right = len(panel.values), above + PANEL, WIDTH - RIGHT
    step = (right - LEFT) / count
    x = [LEFT + step * (n + 0.5) for n in range(count)]

    def y(value: float) -> float:
        return below - PANEL * value / marks[-1]

    for n in range(count):
        if n not in open_to:
            pen.box((LEFT + step * n, above, LEFT + step * (n + 1), below), CLOSED)
    for mark in marks:
        pen.line([(LEFT, y(mark)), (right, y(mark))], FAINT)
        pen.text((LEFT - 10, y(mark)), f"{mark:g}", 13, "rm")
    band = [(at, y(high)) for at, (_, high) in zip(x, panel.ends, strict=True)]
    band += [(at, y(low)) for at, (low, _) in reversed(list(zip(x, panel.ends, strict=True)))]
    pen.area(band, tuple((v + 3 * 255) // 4 for v in panel.colour))
    pen.dashes((LEFT, right), y(panel.level), INK)
    pen.line([(x[marked], above), (x[marked], below)], MARK, 1.5)
    points = [(at, y(value)) for at, value in zip(x, panel.values, strict=True)]
    pen.line(points, panel.colour, 2.5)
    for point in points:
        pen.dot(point, 4 if count <= 40 else 2.5, panel.colour, panel.colour)
    pen.dot(points[marked], 8, WHITE, MARK, 3)
    pen.line([(LEFT, above), (LEFT, below), (right, below)], INK, 1.5)
    pen.text((LEFT, above - 10), panel.name, 15, "ld", panel.colour)
    pen.text((right, above - 10), f"- - -  {panel.level_name}", 13, "rd")
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100) if step * n >= 22)
    for n in range(count):
        if n == marked or (n % every == 0 and abs(n - marked) * step >= 22):
            pen.text((x[n], below + 14), str(n), 15 if n == marked else 13, "mm", MARK if n == marked else INK)


def bars(panel: Panel, marked: int, open_to: Container[int], words: Sequence[str]) -> list[str]:
    """The same curve as a line of text per layer, in ASCII; `words` end each."""
    top = max(*panel.values, 1e-9)
    lines = []
    for n, (value, said) in enumerate(zip(panel.values, words, strict=True)):
        bar = "#" * round(BAR * value / top)
        what = "  <- read this one" if n == marked else "" if n in open_to else "  (no head can read here)"
        lines.append(f"{n:>4}  {bar:<{BAR}}  {said}{what}")
    return lines
