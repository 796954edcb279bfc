"""Drawings of tools."""

import math

from seglens.world.draw import Number, Pen

STEEL, SHINE, WOOD = (168, 176, 186), (216, 222, 228), (176, 116, 66)


def _ring(
    pen: Pen, x: Number, y: Number, r: Number, width: Number, part: str | None = None, seam: Number = 90.0
) -> None:
    """A ring with a real hole; something should be drawn over its seam, at `seam` degrees."""
    turn = [math.radians(seam + 15 * k) for k in range(25)]
    inner, outer = r - width / 2, r + width / 2
    rim = [(x + outer * math.cos(a), y + outer * math.sin(a)) for a in turn]
    pen.poly([*rim, *((x + inner * math.cos(a), y + inner * math.sin(a)) for a in reversed(turn))], pen.main, part)


def _hammer(pen: Pen) -> None:
    end, grip = pen.vary(0.95, 1.1), pen.vary(0.36, 0.42)
    pen.tube([(0, -0.6), (0, 0.1), (0, end - 0.2)], [grip - 0.05, grip - 0.03, grip + 0.06], pen.main, "handle")
    pen.rect(-0.23, end - 0.62, 0.23, end, pen.dark, "handle", round=0.16)
    for y in (0.44, 0.28):
        pen.rect(-0.23, end - y, 0.23, end - y + 0.07, pen.main, "handle", outlined=False)
    pen.blob([(0.1, -0.92), (0.45, -0.9), (0.9, -0.5), (0.84, -0.42), (0.5, -0.58), (0.1, -0.56)], STEEL)
    pen.rect(-0.42, -0.9, 0.26, -0.58, STEEL, round=0.08)
    pen.rect(-0.66, -0.96, -0.4, -0.52, STEEL, round=0.06)
    pen.rect(-0.58, -0.9, -0.52, -0.56, SHINE, outlined=False)
    pen.rect(-0.34, -0.84, 0.3, -0.76, SHINE, outlined=False)


def _scissors(pen: Pen) -> None:
    spread, r, tip = pen.vary(0.2, 0.34), pen.vary(0.27, 0.31), pen.vary(-1.1, -0.95)
    for side in (-1, 1):
        x = side * spread
        edge = [(x, tip), (x + side * 0.16, tip + 0.45), (side * 0.19, 0.25), (-side * 0.15, 0.25)]
        pen.poly(edge, STEEL, "blades")
        pen.poly([(x, tip + 0.16), (x * 0.9 + side * 0.08, tip + 0.48), (0, 0.1)], SHINE, "blades", outlined=False)
    for side in (-1, 1):
        _ring(pen, side * 0.43, 0.68, r, 0.22, "handle", 90 + side * 145)
        pen.tube([(-side * 0.04, 0.02), (side * 0.2, 0.42)], 0.24, pen.main, "handle")
    pen.ellipse(0, 0.08, 0.11, 0.11, pen.light)


def _key(pen: Pen) -> None:
    end, r, long = pen.vary(0.9, 1.1), pen.vary(0.38, 0.44), pen.vary(0.46, 0.56)
    pen.rect(-0.02, end - 0.62, long, end - 0.4, pen.dark, "teeth")
    pen.rect(-0.02, end - 0.28, long + 0.1, end - 0.04, pen.dark, "teeth")
    if pen.chance(0.5):
        _ring(pen, 0, -0.56, r, 0.28)
    else:
        for x, y, seam in ((-0.36, -0.45, 0), (0.36, -0.45, 180), (0, -0.9, 90)):
            _ring(pen, x, y, 0.24, 0.22, seam=seam)
        pen.ellipse(0, -0.5, 0.2, 0.2, pen.light)
    pen.rect(-0.14, -0.3, 0.14, end, pen.main, round=0.1)
    pen.rect(-0.26, -0.26, 0.26, -0.06, pen.light, round=0.08)


def _umbrella(pen: Pen) -> None:
    top, wide, hook = pen.vary(-0.95, -0.8), pen.vary(0.95, 1.08), 0.26
    pen.tube([(0, top), (0, top - 0.16)], 0.12, pen.dark)
    cane = [(0, -0.1), (0, 0.5), (0, 0.8), (hook * 0.4, 1.0), (hook * 1.4, 1.0), (hook * 1.9, 0.78)]
    pen.tube(cane, 0.2, WOOD, "handle")
    ribs = [wide * k for k in (-1, -0.42, 0.42, 1)]
    for a, b, fill in zip(ribs, ribs[1:], (pen.main, pen.light, pen.main), strict=False):
        hem = [(a + (b - a) * t, 0.1 - 0.22 * math.sin(math.pi * t)) for t in (0, 0.2, 0.4, 0.6, 0.8, 1)]
        arc = [(math.sin(s), 0.1 + (top - 0.1) * math.cos(s)) for s in (math.pi / 2 * k / 8 for k in range(9))]
        left = [(a * u, v) for u, v in arc]
        right = [(b * u, v) for u, v in arc]
        pen.poly([*left, *hem[1:-1], *reversed(right)], fill)


def _saw(pen: Pen) -> None:
    nose, deep, teeth = pen.vary(0.1, 0.2), pen.vary(0.3, 0.4), 7
    left, right = -1.1, 0.4
    pen.tube([(0.4, -0.26), (0.8, -0.36), (1.0, -0.08), (0.96, 0.26), (0.7, 0.42), (0.4, 0.32)], 0.25, WOOD, "handle")
    step = (right - left) / (2 * teeth)
    edge = [(left + step * k, deep + 0.06 + (0.2 if k % 2 else 0.0)) for k in range(2 * teeth + 1)]
    pen.poly([(right, -0.36), (left, deep - nose - 0.12), *edge], pen.main, "blade")
    pen.poly([(right, -0.26), (left + 0.12, deep - nose - 0.05), (right, -0.1)], pen.light, "blade", outlined=False)
    pen.rect(0.28, -0.42, 0.54, 0.48, WOOD, "handle", round=0.12)
    pen.ellipse(0.41, -0.2, 0.06, 0.06, SHINE, "handle", outlined=False)
    pen.ellipse(0.41, 0.26, 0.06, 0.06, SHINE, "handle", outlined=False)


DRAWINGS = {
    "hammer": _hammer,
    "scissors": _scissors,
    "key": _key,
    "umbrella": _umbrella,
    "saw": _saw,
}
