"""Drawings of things to wear."""

import math

from seglens.world.draw import Pen

CREAM, GLOW = (250, 245, 232), (255, 226, 120)


def _shirt(pen: Pen) -> None:
    hem, drop = pen.vary(0.85, 1.0), pen.vary(0.0, 0.12)
    for side in (-1, 1):
        cuff = [(0.98, -0.06 + drop), (0.68, 0.2 + drop), (0.4, -0.1), (0.3, -0.82), (0.56, -0.74)]
        pen.poly([(side * x, y) for x, y in cuff], pen.dark, "sleeves")
    half = [(0.28, -0.84), (0.5, -0.74), (0.52, 0.1), (0.56, hem)]
    pen.poly([*half, *((-x, y) for x, y in reversed(half))], pen.main)
    pen.ellipse(0, -0.84, 0.28, 0.24, pen.light, None, True, 0, 0, 180)
    if pen.chance(0.5):
        star = [(0.14 if k % 2 else 0.32, k * math.pi / 5) for k in range(10)]
        pen.poly([(r * math.sin(a), 0.1 - r * math.cos(a)) for r, a in star], pen.light, outlined=False)
    else:
        for y in (-0.1, 0.25):
            pen.rect(-0.52, y, 0.52, y + 0.17, pen.light, outlined=False)


def _hat(pen: Pen) -> None:
    tall, top, wide = pen.vary(-0.85, -0.65), pen.vary(0.42, 0.52), pen.vary(0.95, 1.08)
    pen.ellipse(0, 0.34, wide, 0.26, pen.dark, "brim")
    half = [(0.2, tall), (top, tall + 0.1), (0.54, -0.1), (0.56, 0.3)]
    pen.blob([(0, tall + 0.1), *half, (0, 0.42), *((-x, y) for x, y in reversed(half))], pen.main)
    pen.tube([(-0.53, 0.16), (0, 0.27), (0.53, 0.16)], 0.2, CREAM)
    pen.tube([(0.42, 0.14), (0.62, -0.3), (0.56, -0.72)], [0.1, 0.24, 0.06], GLOW)


def _shoe(pen: Pen) -> None:
    high, toe = pen.vary(-0.6, -0.45), pen.vary(0.9, 1.02)
    back = [(0, 0.5), (-0.85, 0.4), (-0.92, 0.0), (-0.86, high), (-0.4, high + 0.04), (-0.1, high + 0.22)]
    pen.blob([*back, (0.3, -0.05), (0.75, 0.06), (toe, 0.3), (toe, 0.48)], pen.main)
    pen.tube([(-0.84, high), (-0.62, high + 0.07), (-0.36, high + 0.02)], 0.18, pen.light)
    pen.blob([(0.55, 0.46), (0.58, 0.2), (0.74, 0.08), (toe, 0.28), (toe, 0.48)], pen.light, outlined=False)
    pen.tube([(-0.8, 0.1), (-0.45, 0.25), (-0.1, 0.1)], 0.13, pen.light, outlined=False)
    for x in (0.0, 0.2, 0.4):
        lace = [(x - 0.08, high * 0.3 + 0.14 + x * 0.3), (x + 0.08, high * 0.55 + x * 0.5)]
        pen.tube(lace, 0.09, CREAM, outlined=False)
    pen.rect(-0.98, 0.4, toe + 0.08, 0.72, CREAM, "sole", round=0.14)
    pen.rect(-0.9, 0.52, toe, 0.58, pen.dark, "sole", outlined=False)


def _glasses(pen: Pen) -> None:
    r, tall, soft = pen.vary(0.36, 0.4), pen.vary(0.32, 0.4), pen.vary(0.1, 0.4)
    for side in (-1, 1):
        pen.tube([(side * 0.85, -0.08), (side * 1.1, -0.24), (side * 1.08, -0.6)], [0.24, 0.2, 0.17], pen.dark)
    pen.tube([(-0.2, -0.02), (0, -0.16), (0.2, -0.02)], 0.2, pen.main)
    for side in (-1, 1):
        x = side * 0.53
        pen.rect(x - r - 0.1, -tall - 0.1, x + r + 0.1, tall + 0.1, pen.main, None, True, soft + 0.1)
        pen.rect(x - r + 0.05, -tall + 0.05, x + r - 0.05, tall - 0.05, pen.light, "lenses", True, soft)
        pen.tube([(x - 0.14, 0.08), (x + 0.06, -0.16)], 0.11, CREAM, "lenses", outlined=False)


def _sock(pen: Pen) -> None:
    top, toe = pen.vary(-1.0, -0.85), pen.vary(0.75, 0.9)
    leg = [(0, 0.92), (-0.46, 0.7), (-0.56, 0.2), (-0.5, top + 0.15), (-0.02, top + 0.15), (0.02, -0.1), (0.2, 0.24)]
    tip = [(toe - 0.2, 0.3), (toe, 0.58), (toe - 0.2, 0.88)]
    pen.blob([*leg, *tip], pen.main)
    pen.blob([(toe - 0.44, 0.28), *tip, (toe - 0.44, 0.91), (toe - 0.3, 0.6)], pen.dark, "toe")
    pen.blob([(-0.55, 0.3), (-0.3, 0.38), (-0.14, 0.62), (-0.22, 0.85), (-0.48, 0.68)], pen.dark, outlined=False)
    for y in (-0.42, -0.12) if pen.chance(0.6) else (-0.26,):
        pen.poly([(-0.5, y), (0.0, y), (0.02, y + 0.15), (-0.53, y + 0.15)], pen.light, outlined=False)
    pen.rect(-0.6, top - 0.05, 0.08, top + 0.3, CREAM, "cuff", round=0.1)


DRAWINGS = {
    "shirt": _shirt,
    "hat": _hat,
    "shoe": _shoe,
    "glasses": _glasses,
    "sock": _sock,
}
