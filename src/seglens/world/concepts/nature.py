"""Drawings of plants, the sun and a snowman."""

from __future__ import annotations

import math

from seglens.world.draw import Number, Pen

INK, ROSE, BARK, LEAF, CREAM = (40, 32, 38), (244, 150, 165), (120, 80, 50), (84, 158, 76), (250, 238, 214)


def _smile(pen: Pen, x: Number, y: Number, s: Number, part: str | None = None) -> None:
    """A smiling face `s` wide on each side of its middle."""
    for side in (-1, 1):
        at = x + side * s * 0.6
        pen.ellipse(at, y - s * 0.2, s * 0.21, s * 0.28, INK, part, outlined=False)
        pen.ellipse(at - s * 0.05, y - s * 0.3, s * 0.08, s * 0.09, (255, 255, 255), part, outlined=False)
        pen.ellipse(x + side * s * 0.85, y + s * 0.25, s * 0.2, s * 0.14, ROSE, part, outlined=False)
    mouth = [(x + s * u, y + s * v) for u, v in ((-0.38, 0.16), (-0.2, 0.38), (0.2, 0.38), (0.38, 0.16))]
    pen.tube(mouth, s * 0.16, INK, part, outlined=False)


def _tree(pen: Pen) -> None:
    lumps, turn, wide, fruit = int(pen.vary(7, 10)), pen.vary(0, 1), pen.vary(0.5, 0.6), pen.chance(0.4)
    pen.blob(
        [(-0.17, -0.1), (0.17, -0.1), (0.17, 0.6), (0.36, 0.96), (0, 0.9), (-0.36, 0.96), (-0.17, 0.6)], BARK, "trunk"
    )
    pen.ellipse(0.01, 0.6, 0.07, 0.1, (74, 46, 30), "trunk", outlined=False)
    at = [(math.cos(a), math.sin(a)) for a in (turn + k * 2 * math.pi / lumps for k in range(lumps))]
    for x, y in at:
        pen.ellipse(x * wide, y * 0.4 - 0.32, 0.31, 0.29, pen.main, "crown")
    pen.ellipse(0, -0.32, wide + 0.12, 0.5, pen.main, "crown", outlined=False)
    for x, y in at:
        pen.ellipse(x * wide, y * 0.4 - 0.32, 0.27, 0.25, pen.main, "crown", outlined=False)
    for x, y in ((-0.4, -0.5), (0.05, -0.66), (0.36, -0.3), (-0.12, -0.18)):
        arc = [(x - 0.15, y), (x - 0.07, y - 0.09), (x + 0.07, y - 0.09), (x + 0.15, y)]
        pen.tube(arc, 0.065, pen.light, "crown", outlined=False)
    for x, y in ((-0.5, -0.16), (0.22, -0.5), (0.3, -0.02), (-0.2, -0.42)) if fruit else ():
        pen.ellipse(x, y, 0.075, 0.075, pen.dark, "crown", outlined=False)


def _flower(pen: Pen) -> None:
    petals, turn, bend, out = int(pen.vary(5, 8)), pen.vary(0, 1), pen.vary(-0.12, 0.12), pen.vary(0.4, 0.44)
    pen.tube([(0, -0.3), (bend, 0.4), (0, 1.06)], 0.25, LEAF, "stem")
    for side in (-1, 1):
        y = 0.78 + side * 0.06
        leaf = [(side * 0.08, y + 0.12), (side * 0.28, y - 0.16), (side * 0.62, y - 0.26), (side * 0.46, y + 0.06)]
        pen.blob(leaf, LEAF, "leaves")
        pen.tube([(side * 0.18, y + 0.02), (side * 0.48, y - 0.15)], 0.03, (56, 118, 60), "leaves", outlined=False)
    for k in range(petals):
        a = turn + k * 2 * math.pi / petals
        x, y = out * math.cos(a), out * math.sin(a) - 0.4
        pen.ellipse(x, y, 0.31, 1.5 / petals, pen.main, "petals", angle=math.degrees(a))
    pen.ellipse(0, -0.4, 0.27, 0.27, (252, 222, 120))
    _smile(pen, 0, -0.4, 0.2)


def _cactus(pen: Pen) -> None:
    left, right, top, bloom = pen.vary(-0.45, -0.25), pen.vary(-0.3, -0.1), pen.vary(-0.75, -0.62), pen.chance(0.75)
    pen.tube([(-0.16, 0.22), (-0.6, 0.16), (-0.68, left)], [0.26, 0.28, 0.27], pen.main, "arms")
    pen.tube([(0.16, 0.34), (0.58, 0.28), (0.68, right)], [0.26, 0.28, 0.27], pen.main, "arms")
    pen.tube([(0, 0.6), (0, 0), (0, top)], [0.52, 0.6, 0.5], pen.main)
    for x, y in ((-0.14, -0.6), (0.12, -0.7), (-0.16, 0.34), (0.16, 0.36), (0, -0.44), (0, 0.2)):
        pen.tube([(x - 0.05, y - 0.05), (x, y), (x + 0.05, y - 0.05)], 0.035, pen.light, outlined=False)
    for x, y in ((-0.69, left + 0.02), (-0.66, left + 0.28), (0.69, right + 0.02), (0.66, right + 0.26)):
        pen.tube([(x - 0.05, y - 0.05), (x, y), (x + 0.05, y - 0.05)], 0.035, pen.light, "arms", outlined=False)
    for x, y in ((-0.12, 0), (0.12, 0), (0, -0.11)) if bloom else ():
        pen.ellipse(x, top - 0.27 + y, 0.12, 0.11, (238, 96, 140))
    _smile(pen, 0, -0.12, 0.22)
    pen.poly([(-0.42, 0.6), (0.42, 0.6), (0.32, 1.02), (-0.32, 1.02)], (204, 112, 70), "pot")
    pen.rect(-0.5, 0.5, 0.5, 0.68, (222, 134, 88), "pot", round=0.05)


def _mushroom(pen: Pen) -> None:
    wide, tall, foot = pen.vary(0.84, 0.98), pen.vary(0.9, 1.05), pen.vary(0.3, 0.38)
    pen.blob(
        [(-0.26, 0), (0.26, 0), (0.28, 0.4), (foot, 0.8), (0.18, 0.94), (-0.18, 0.94), (-foot, 0.8), (-0.28, 0.4)],
        CREAM,
        "stem",
    )
    _smile(pen, 0, 0.52, 0.2, "stem")
    dome = [(0.86, -0.36), (0.45, -tall * 0.76), (0, -tall * 0.88), (-0.45, -tall * 0.76), (-0.86, -0.36)]
    brim = [(-1, 0.1), (-0.5, 0.24), (0, 0.28), (0.5, 0.24), (1, 0.1)]
    pen.blob([(x * wide, y) for x, y in dome + brim], pen.main, "cap")
    slide = pen.vary(-0.06, 0.06)
    for x, y, r in ((-0.5, -0.3, 0.14), (0.06, -0.56, 0.15), (0.54, -0.22, 0.13), (0, -0.06, 0.12), (-0.7, 0, 0.07)):
        pen.ellipse(x + slide, y, r * 1.1, r, (255, 252, 244), "cap", outlined=False)


def _sun(pen: Pen) -> None:
    rays, size, far, tips = int(pen.vary(9, 13)), pen.vary(0.56, 0.64), pen.vary(0.98, 1.08), pen.chance(0.5)
    for k in range(rays):
        a, half = k * 2 * math.pi / rays, math.pi / rays * 0.8
        out = far if k % 2 or not tips else far * 0.86
        ends = ((size * 0.9, a - half), (out, a), (size * 0.9, a + half))
        pen.poly([(r * math.cos(b), r * math.sin(b)) for r, b in ends], pen.main, "rays")
    pen.ellipse(0, 0, size, size, pen.main)
    pen.ellipse(-0.2, -0.34, 0.2, 0.1, pen.light, outlined=False, angle=-30)
    _smile(pen, 0, 0.05, 0.4)


def _snowman(pen: Pen) -> None:
    hat, wave, lean = pen.vary(0.24, 0.36), pen.vary(-0.35, 0.05), pen.vary(-0.05, 0.05)
    felt = (58, 54, 66) if pen.chance(0.6) else (96, 64, 48)
    wool = (204, 54, 60) if pen.chance(0.5) else (60, 140, 96)
    for side in (-1, 1):
        pen.tube([(side * 0.5, 0.34), (side * 1.0, wave)], 0.07, BARK)
        pen.tube([(side * 0.84, wave + 0.2), (side * 1.08, wave + 0.16)], 0.05, BARK)
    pen.ellipse(0, 0.62, 0.7, 0.58, pen.main)
    for y in (0.46, 0.68, 0.9):
        pen.ellipse(0, y, 0.06, 0.06, INK, outlined=False)
    pen.ellipse(lean, -0.26, 0.5, 0.46, pen.main)
    pen.tube([(0.26, 0.14), (0.34, 0.5)], [0.18, 0.22], wool, "scarf")
    pen.tube([(-0.42, 0.06), (0, 0.19), (0.42, 0.06)], 0.2, wool, "scarf")
    pen.rect(lean - 0.34, -0.62 - hat, lean + 0.34, -0.56, felt, "hat", round=0.06)
    pen.rect(lean - 0.34, -0.74, lean + 0.34, -0.64, wool, "hat", outlined=False)
    pen.rect(lean - 0.54, -0.65, lean + 0.54, -0.51, felt, "hat", round=0.07)
    _smile(pen, lean, -0.22, 0.34)
    nose = [(lean - 0.06, -0.3), (lean + 0.1, -0.27), (lean + 0.42, -0.16), (lean - 0.04, -0.17)]
    pen.poly(nose, (240, 135, 35), outlined=False)


DRAWINGS = {
    "tree": _tree,
    "flower": _flower,
    "cactus": _cactus,
    "mushroom": _mushroom,
    "sun": _sun,
    "snowman": _snowman,
}
