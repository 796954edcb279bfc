"""Drawings of things of the home."""

import math

from seglens.world.draw import Colour, Number, Pen

CREAM, GLOW, WOOD, INK = (250, 245, 232), (255, 226, 120), (150, 98, 60), (44, 38, 48)


def _heart(pen: Pen, x: Number, y: Number, r: Number, fill: Colour, part: str | None = None) -> None:
    half = [(0, -0.4), (0.5, -0.85), (1.0, -0.4), (0.6, 0.35), (0, 1)]
    outline = half + [(-a, b) for a, b in reversed(half[1:-1])]
    pen.poly([(x + r * a, y + r * b) for a, b in outline], fill, part, outlined=False)


def _chair(pen: Pen) -> None:
    top, leg, lean = pen.vary(-1.15, -0.95), pen.vary(0.9, 1.05), pen.vary(-0.12, 0.12)
    for x in (-0.36, 0.36):
        pen.tube([(x, 0.2), (x, leg - 0.2)], 0.17, pen.dark, "legs")
    for x in (-0.44, 0.44):
        pen.tube([(x, 0.1), (x + lean, top + 0.1)], 0.19, pen.main)
    for y in (-0.3, -0.68) if pen.chance(0.5) else (-0.45,):
        pen.rect(-0.42 - lean * y, y - 0.11, 0.42 - lean * y, y + 0.11, pen.light)
    pen.rect(-0.56 + lean, top - 0.06, 0.56 + lean, top + 0.28, pen.main, round=0.15)
    _heart(pen, lean, top + 0.1, 0.12, pen.dark)
    for x in (-0.58, 0.58):
        pen.tube([(x, 0.3), (x * 1.06, leg)], [0.24, 0.2], pen.dark, "legs")
    pen.poly([(-0.5, 0.0), (0.5, 0.0), (0.74, 0.32), (0.74, 0.5), (-0.74, 0.5), (-0.74, 0.32)], pen.main, "seat")
    pen.poly([(-0.46, 0.03), (0.46, 0.03), (0.67, 0.3), (-0.67, 0.3)], pen.light, "seat", outlined=False)


def _bed(pen: Pen) -> None:
    head, foot, leg = pen.vary(-0.75, -0.6), pen.vary(-0.15, 0.0), pen.vary(0.92, 1.02)
    for x in (-0.88, 0.88):
        pen.rect(x - 0.19, 0.4, x + 0.19, leg, pen.dark, "legs", round=0.08)
    pen.rect(-0.9, 0.05, 0.9, 0.4, CREAM, round=0.1)
    pen.rect(-0.95, 0.35, 0.95, 0.6, pen.dark)
    pillow = [(-0.82, -0.2), (-0.62, -0.36), (-0.3, -0.34), (-0.12, -0.12), (-0.3, 0.14), (-0.74, 0.14)]
    pen.blob(pillow, CREAM, "pillow")
    blanket = [(-0.3, -0.02), (0.1, -0.22), (0.6, -0.2), (0.92, 0.0), (0.9, 0.44), (0.3, 0.5), (-0.26, 0.44)]
    pen.blob(blanket, pen.main)
    pen.tube([(-0.22, 0.02), (-0.2, 0.4)], 0.17, pen.light, outlined=False)
    for x, y in ((0.1, 0.02), (0.3, 0.28), (0.5, 0.0), (0.68, 0.26)):
        _heart(pen, x, y, 0.08, pen.light)
    pen.rect(-1.04, head, -0.8, 0.62, pen.main, round=0.1)
    pen.rect(0.8, foot, 1.04, 0.62, pen.main, round=0.1)
    pen.ellipse(-0.92, head - 0.02, 0.15, 0.15, pen.main)
    pen.ellipse(0.92, foot - 0.02, 0.15, 0.15, pen.main)


def _lamp(pen: Pen) -> None:
    top, wide, low = pen.vary(0.3, 0.42), pen.vary(0.72, 0.85), pen.vary(-0.12, 0.0)
    pen.tube([(0, low - 0.1), (0, 0.9)], 0.16, pen.dark, "base")
    vase = [(0, 0.12), (0.26, 0.3), (0.32, 0.5), (0.14, 0.84), (-0.14, 0.84), (-0.32, 0.5), (-0.26, 0.3)]
    pen.blob(vase, pen.dark, "base")
    pen.rect(-0.48, 0.82, 0.48, 1.02, pen.dark, "base", round=0.1)
    pen.tube([(0.42, low), (0.42, 0.22)], 0.05, GLOW, outlined=False)
    pen.ellipse(0.42, 0.26, 0.08, 0.08, GLOW)
    pen.ellipse(0, low + 0.02, 0.2, 0.17, GLOW)
    pen.poly([(-top, -0.95), (top, -0.95), (wide, low), (-wide, low)], pen.main, "shade")
    shine = [(-top * 0.4, -0.93), (top * 0.4, -0.93), (wide * 0.45, low), (-wide * 0.45, low)]
    pen.poly(shine, pen.light, "shade", outlined=False)
    pen.tube([(-wide, low), (0, low + 0.02), (wide, low)], 0.12, pen.main, "shade")
    pen.tube([(-top, -0.95), (top, -0.95)], 0.1, pen.main, "shade")


def _cup(pen: Pen) -> None:
    wide, foot, deep = pen.vary(0.55, 0.66), pen.vary(0.36, 0.52), pen.vary(0.62, 0.78)
    grip = [(0.4, -0.3), (0.85, -0.38), (1.1, -0.05), (0.92, 0.3), (0.35, 0.45)]
    pen.tube([(x + wide - 0.55, y) for x, y in grip], 0.25, pen.main, "handle")
    half = [(wide, -0.55), (wide, 0.1), (foot, deep)]
    pen.blob([(0, -0.5), *half, (0, deep + 0.06), *((-x, y) for x, y in reversed(half))], pen.main)
    pen.ellipse(0, -0.55, wide, 0.19, pen.light)
    pen.ellipse(0, -0.52, wide - 0.1, 0.12, (112, 70, 44), outlined=False)
    if pen.chance(0.5):
        _heart(pen, -0.02, 0.12, 0.26, pen.dark)
    else:
        for x in (-0.3, 0, 0.3):
            pen.ellipse(x, 0.1 + 0.1 * (x == 0), 0.12, 0.12, pen.dark, outlined=False)


def _clock(pen: Pen) -> None:
    hour, minute, r = pen.vary(0, 2 * math.pi), pen.vary(0, 2 * math.pi), pen.vary(0.5, 0.54)
    for side in (-1, 1):
        pen.tube([(side * 0.4, 0.5), (side * 0.66, 0.98)], 0.24, pen.dark)
        pen.tube([(side * 0.4, -0.4), (side * 0.56, -0.72)], 0.14, pen.dark, "bells")
        pen.ellipse(side * 0.52, -0.6, 0.42, 0.4, pen.light, "bells", True, side * 38, 180, 360)
    pen.tube([(-0.16, -0.6), (-0.16, -0.94), (0.16, -0.94), (0.16, -0.6)], 0.12, pen.dark)
    pen.ellipse(0, 0.15, 0.78, 0.78, pen.main)
    pen.ellipse(0, 0.15, r, r, CREAM, "face")
    for k in range(0, 12, 3):
        a = k * math.pi / 6
        pen.ellipse(0.4 * math.cos(a), 0.15 + 0.4 * math.sin(a), 0.05, 0.05, INK, "face", outlined=False)
    pen.tube([(0, 0.15), (0.2 * math.cos(hour), 0.15 + 0.2 * math.sin(hour))], 0.11, INK, "face", outlined=False)
    pen.tube([(0, 0.15), (0.33 * math.cos(minute), 0.15 + 0.33 * math.sin(minute))], 0.09, INK, "face", outlined=False)
    pen.ellipse(0, 0.15, 0.08, 0.08, (214, 70, 60), "face", outlined=False)


def _house(pen: Pen) -> None:
    wall, peak, side = pen.vary(0.66, 0.78), pen.vary(-1.05, -0.85), pen.vary(0.3, 0.36)
    pen.rect(0.36, -0.95, 0.64, -0.3, pen.dark, "roof")
    pen.rect(0.31, -1.0, 0.69, -0.86, pen.dark, "roof")
    pen.rect(-wall, -0.3, wall, 0.95, pen.main)
    pen.poly([(-wall - 0.24, -0.1), (0, peak), (wall + 0.24, -0.1)], pen.dark, "roof")
    pen.ellipse(0, -0.38, 0.16, 0.16, GLOW, "roof")
    pen.rect(-side - 0.24, 0.2, -side + 0.24, 0.95, WOOD, "door")
    pen.ellipse(-side, 0.22, 0.24, 0.2, WOOD, "door", True, 0, 180, 360)
    _heart(pen, -side, 0.33, 0.12, GLOW, "door")
    pen.ellipse(-side + 0.14, 0.6, 0.05, 0.05, GLOW, "door", outlined=False)
    pen.rect(0.12, 0.2, 0.54, 0.6, GLOW)
    pen.rect(0.3, 0.2, 0.36, 0.6, CREAM, outlined=False)
    pen.rect(0.12, 0.37, 0.54, 0.43, CREAM, outlined=False)
    pen.rect(0.06, 0.6, 0.6, 0.72, pen.light)


DRAWINGS = {
    "chair": _chair,
    "bed": _bed,
    "lamp": _lamp,
    "cup": _cup,
    "clock": _clock,
    "house": _house,
}
