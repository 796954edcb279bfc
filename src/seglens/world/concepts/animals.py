"""Drawings of animals."""

from __future__ import annotations

import math

from seglens.world.draw import Pen

INK, ROSE, CORAL, AMBER, BONE = (40, 32, 38), (244, 160, 170), (240, 128, 120), (245, 150, 40), (205, 180, 140)


def _deer(pen: Pen) -> None:
    leg, neck = pen.vary(0.5, 0.65), pen.vary(-0.62, -0.5)
    for side in (-1, 1):
        x = 0.42 + side * 0.1
        stem = [(x, neck - 0.1), (x + side * 0.22, neck - 0.42), (x + side * 0.15, neck - 0.75)]
        pen.tube(stem, 0.1, BONE, "antlers")
        pen.tube([(x + side * 0.16, neck - 0.35), (x + side * 0.44, neck - 0.52)], 0.09, BONE, "antlers")
    for x in (-0.55, -0.32, 0.12, 0.33):
        pen.tube([(x, 0.2), (x + pen.vary(-0.06, 0.06), 0.2 + leg)], [0.16, 0.1], pen.dark, "legs")
    pen.tube([(-0.66, -0.02), (-0.84, -0.14)], [0.16, 0.1], pen.light)
    pen.blob([(-0.72, -0.1), (-0.2, -0.22), (0.4, -0.15), (0.48, 0.2), (-0.1, 0.38), (-0.68, 0.28)], pen.main)
    for x, y in ((-0.5, -0.02), (-0.28, -0.08), (-0.36, 0.1), (-0.1, 0.02)):
        pen.ellipse(x, y, 0.045, 0.04, pen.light, outlined=False)
    pen.tube([(0.32, 0.02), (0.42, neck)], [0.32, 0.22], pen.main)
    pen.blob(
        [
            (0.3, neck - 0.16),
            (0.55, neck - 0.12),
            (0.82, neck + 0.06),
            (0.78, neck + 0.18),
            (0.45, neck + 0.18),
            (0.3, neck + 0.05),
        ],
        pen.main,
    )
    pen.ellipse(0.8, neck + 0.08, 0.06, 0.05, INK, outlined=False)
    pen.eye(0.5, neck - 0.02, 0.06)


def _cat(pen: Pen) -> None:
    ear, curl, stripes = pen.vary(-1.1, -1.0), pen.vary(-0.1, 0.1), pen.chance(0.5)
    tail = [(0.2, 0.78), (0.72, 0.76), (0.86, 0.32), (0.7 + curl, -0.02), (0.92 + curl, -0.22)]
    pen.tube(tail, 0.24, pen.main, "tail")
    pen.blob([(-0.26, -0.1), (0.26, -0.1), (0.42, 0.5), (0.38, 0.88), (-0.38, 0.88), (-0.42, 0.5)], pen.main)
    pen.ellipse(0, 0.42, 0.19, 0.26, pen.light, outlined=False)
    for side in (-1, 1):
        pen.ellipse(side * 0.17, 0.86, 0.17, 0.11, pen.main)
        pen.poly([(side * 0.6, -0.32), (side * 0.56, ear), (side * 0.06, -0.66)], pen.main, "ears")
        pen.poly([(side * 0.5, -0.5), (side * 0.5, ear + 0.16), (side * 0.22, -0.66)], ROSE, "ears", outlined=False)
    pen.ellipse(0, -0.3, 0.6, 0.42, pen.main)
    for x in (-0.16, 0, 0.16) if stripes else ():
        pen.tube([(x, -0.66), (x * 0.8, -0.52)], [0.09, 0.05], pen.dark, outlined=False)
    pen.ellipse(0, -0.13, 0.22, 0.15, pen.light, outlined=False)
    pen.poly([(-0.07, -0.22), (0.07, -0.22), (0, -0.13)], CORAL, outlined=False)
    for side in (-1, 1):
        pen.eye(side * 0.26, -0.34, 0.12)
        pen.tube([(0, -0.13), (side * 0.06, -0.06), (side * 0.13, -0.09)], 0.035, INK, outlined=False)
        for y in (-0.2, -0.1):
            pen.tube([(side * 0.34, y + 0.04), (side * 0.72, y)], 0.03, INK, outlined=False)


def _rabbit(pen: Pen) -> None:
    tip, spread, fold = pen.vary(-1.2, -1.05), pen.vary(-0.06, 0.06), pen.chance(0.25)
    ends = [(0.42, -0.3, 0.56 + spread, tip), (0.22, -0.28, 0.02 - spread, tip + 0.1)]
    for x, y, u, v in ends:
        bent = [(u - 0.05, v + 0.2), (u - 0.3, v + 0.25)] if fold and u < 0.3 else [(u, v)]
        pen.tube([(x, y), ((x + u) / 2, (y + v) / 2), *bent], [0.2, 0.28] + [0.2] * len(bent), pen.main, "ears")
        middle = [(x * 0.7 + u * 0.3, y * 0.7 + v * 0.3), ((x + u) / 2, (y + v) / 2)]
        pen.tube(middle, 0.1, ROSE, "ears", outlined=False)
    pen.ellipse(0.4, 0.82, 0.2, 0.11, pen.light)
    pen.blob([(-0.7, 0.5), (-0.45, 0.08), (0.1, 0), (0.5, 0.2), (0.5, 0.7), (0.1, 0.88), (-0.5, 0.88)], pen.main)
    pen.ellipse(-0.76, 0.56, 0.28, 0.27, (250, 248, 244), "tail")
    pen.ellipse(-0.22, 0.56, 0.32, 0.3, pen.main)
    pen.ellipse(-0.08, 0.84, 0.32, 0.12, pen.light)
    pen.ellipse(0.38, -0.1, 0.4, 0.33, pen.main)
    pen.ellipse(0.6, 0.02, 0.18, 0.14, pen.light, outlined=False)
    pen.ellipse(0.75, -0.07, 0.07, 0.055, CORAL, outlined=False)
    pen.rect(0.66, 0.06, 0.75, 0.18, (255, 255, 255), outlined=False)
    pen.ellipse(0.3, 0.04, 0.09, 0.07, ROSE, outlined=False)
    pen.eye(0.45, -0.16, 0.1)


def _elephant(pen: Pen) -> None:
    lift, ear, leg = pen.chance(0.5), pen.vary(0.36, 0.42), pen.vary(0.7, 0.8)
    pen.tube([(-0.8, 0), (-0.98, 0.2), (-0.94, 0.42)], [0.07, 0.06, 0.1], pen.dark)
    for x in (-0.66, -0.32, 0.04, 0.3):
        pen.tube([(x, 0.3), (x, leg)], 0.25, pen.dark if x in (-0.32, 0.3) else pen.main, "legs")
        pen.ellipse(x + 0.02, leg + 0.08, 0.08, 0.035, (250, 240, 225), "legs", outlined=False)
    pen.blob([(-0.84, 0.1), (-0.6, -0.36), (0, -0.45), (0.42, -0.2), (0.44, 0.3), (0, 0.46), (-0.7, 0.42)], pen.main)
    pen.ellipse(0.72, -0.58, 0.2, 0.26, pen.dark, "ears", angle=25)
    pen.ellipse(0.52, -0.28, 0.36, 0.36, pen.main)
    end = [(1.06, -0.12), (1.22, -0.5), (1.06, -0.78)] if lift else [(1.0, 0.12), (0.98, 0.52), (1.22, 0.68)]
    pen.tube([(0.76, -0.2), *end], [0.34, 0.28, 0.23, 0.19], pen.main, "trunk")
    pen.tube([(0.66, 0), (0.76, 0.16), (0.88, 0.2)], [0.1, 0.08, 0.04], (250, 246, 232))
    pen.ellipse(0.16, -0.3, 0.3, ear, pen.main, "ears", angle=8)
    pen.ellipse(0.17, -0.28, 0.18, ear - 0.13, ROSE if pen.chance(0.6) else pen.light, "ears", outlined=False, angle=8)
    pen.ellipse(0.6, -0.1, 0.07, 0.06, ROSE, outlined=False)
    pen.eye(0.62, -0.34, 0.085)


def _fish(pen: Pen) -> None:
    fan, high, bands = pen.vary(0.42, 0.54), pen.vary(-0.86, -0.72), pen.chance(0.6)
    pen.blob([(-0.5, 0), (-0.78, -0.24), (-1.12, -fan), (-0.98, 0), (-1.12, fan), (-0.78, 0.24)], pen.dark, "tail")
    pen.blob([(-0.34, -0.3), (-0.3, high), (0.08, high + 0.08), (0.32, -0.34)], pen.dark, "fins")
    pen.blob([(-0.3, 0.3), (-0.36, 0.72), (0, 0.62), (0.14, 0.36)], pen.dark, "fins")
    pen.blob(
        [(-0.66, 0), (-0.3, -0.42), (0.25, -0.5), (0.72, -0.2), (0.8, 0.06), (0.5, 0.38), (0, 0.48), (-0.36, 0.36)],
        pen.main,
    )
    pen.blob([(-0.2, 0.28), (0.3, 0.24), (0.62, 0.18), (0.4, 0.38), (0.05, 0.43)], pen.light, outlined=False)
    for x in (-0.36, -0.08) if bands else ():
        pen.tube([(x, -0.3 - x / 5), (x + 0.07, 0), (x, 0.26)], [0.08, 0.13, 0.08], pen.light, outlined=False)
    for x, y in () if bands else ((-0.4, -0.05), (-0.24, -0.22), (-0.24, 0.12), (-0.04, -0.26)):
        pen.ellipse(x, y, 0.07, 0.07, pen.light, outlined=False)
    pen.blob([(0.16, 0.08), (-0.12, -0.02), (-0.2, 0.2), (-0.04, 0.28)], pen.dark, "fins")
    pen.ellipse(0.32, 0.12, 0.1, 0.07, ROSE, outlined=False)
    pen.tube([(0.54, 0.16), (0.64, 0.17), (0.75, 0.06)], 0.045, INK, outlined=False)
    pen.eye(0.44, -0.12, 0.14)


def _duck(pen: Pen) -> None:
    raised, neck, tuft = pen.vary(-0.7, -0.5), pen.vary(-0.6, -0.52), pen.chance(0.6)
    for x in (-0.18, 0.14):
        pen.tube([(x, 0.6), (x, 0.88), (x + 0.16, 0.92)], [0.09, 0.09, 0.13], AMBER)
    pen.blob(
        [(0.0, 0.2), (-0.3, -0.12), (-0.5, raised), (-0.24, raised + 0.05), (0.06, -0.3), (0.24, 0.1)],
        pen.dark,
        "wings",
    )
    for x in (0.24, 0.34) if tuft else ():
        pen.tube([(0.36, neck - 0.25), (x - 0.06, neck - 0.44)], [0.12, 0.07], pen.main)
    under = ((0.58, 0.1), (0.94, 0.14), (1.2, 0.26), (1.0, 0.37), (0.7, 0.34))
    upper = ((0.58, -0.04), (0.86, -0.16), (1.14, -0.04), (1.36, 0), (1.34, 0.15), (0.95, 0.18))
    for bill, fill in ((under, CORAL), (upper, AMBER)):
        pen.blob([(x, neck + y) for x, y in bill], fill, "beak")
    pen.blob(
        [
            (-0.98, -0.12),
            (-0.6, 0.06),
            (0, 0.02),
            (0.2, -0.2),
            (0.62, -0.2),
            (0.66, 0.3),
            (0.3, 0.66),
            (-0.35, 0.68),
            (-0.8, 0.4),
        ],
        pen.main,
    )
    pen.ellipse(0.42, neck, 0.35, 0.34, pen.main)
    pen.ellipse(0.4, -0.2, 0.19, 0.16, pen.main, outlined=False)
    pen.blob(
        [(0.26, 0.12), (-0.2, 0.1), (-0.66, 0.24), (-0.52, 0.4), (-0.36, 0.42), (-0.2, 0.52), (0.1, 0.46)],
        pen.dark,
        "wings",
    )
    pen.ellipse(0.38, neck + 0.14, 0.09, 0.07, ROSE, outlined=False)
    pen.eye(0.5, neck - 0.06, 0.1)


def _turtle(pen: Pen) -> None:
    dome, head = pen.vary(0.72, 0.86), pen.vary(-0.28, -0.08)
    pen.tube([(-0.7, 0.34), (-0.98, 0.46)], [0.2, 0.06], pen.light)
    for x in (-0.5, 0.42):
        pen.tube([(x, 0.3), (x + pen.vary(-0.08, 0.08), 0.62)], [0.32, 0.3], pen.light, "legs")
        pen.ellipse(x, 0.71, 0.09, 0.04, pen.dark, "legs", outlined=False)
    pen.tube([(0.5, 0.3), (0.8, 0.2), (0.94, head)], [0.28, 0.24, 0.24], pen.light)
    pen.ellipse(0.98, head, 0.27, 0.24, pen.light)
    pen.ellipse(-0.06, 0.32, 0.78, dome, pen.main, "shell", start=180, stop=360)
    for x, y, r in ((-0.06, -0.14, 0.2), (-0.46, 0.04, 0.14), (0.34, 0.04, 0.14)):
        hexagon = [(x + r * math.cos(k * math.pi / 3), y + r * math.sin(k * math.pi / 3)) for k in range(6)]
        pen.poly(hexagon, pen.dark, "shell", outlined=False)
    pen.tube([(-0.84, 0.34), (0.72, 0.34)], 0.18, pen.main, "shell")
    pen.tube([(1.0, head + 0.1), (1.1, head + 0.11), (1.18, head + 0.03)], 0.035, INK, outlined=False)
    pen.ellipse(0.88, head + 0.09, 0.07, 0.05, ROSE, outlined=False)
    pen.eye(1.02, head - 0.06, 0.085)


def _butterfly(pen: Pen) -> None:
    top, wide, low, dots = pen.vary(-0.88, -0.74), pen.vary(0.86, 1.0), pen.vary(0.66, 0.82), pen.chance(0.5)
    for s in (-1, 1):
        pen.tube([(0, -0.5), (s * 0.1, -0.8), (s * 0.26, -0.92)], [0.05, 0.05, 0.1], INK)
        pen.blob([(0, 0.05), (s * 0.5, 0.02), (s * 0.74, 0.34), (s * 0.52, low), (s * 0.22, 0.56)], pen.main, "wings")
        pen.blob(
            [(0, 0.1), (s * 0.16, -0.36), (s * 0.62, top), (s * wide, -0.56), (s * 0.84, -0.02), (s * 0.44, 0.14)],
            pen.main,
            "wings",
        )
        pen.ellipse(s * 0.6, -0.36, 0.2, 0.17, pen.light, "wings", outlined=False)
        pen.ellipse(s * 0.6, -0.36, 0.1, 0.09, pen.dark, "wings", outlined=False)
        pen.ellipse(s * 0.46, 0.38, 0.13, 0.14, pen.light if dots else pen.dark, "wings", outlined=False)
    pen.tube([(0, -0.3), (0, 0.1), (0, 0.56)], [0.2, 0.22, 0.1], (92, 70, 84))
    pen.ellipse(0, -0.44, 0.18, 0.17, (92, 70, 84))
    for s in (-1, 1):
        pen.eye(s * 0.075, -0.47, 0.065)
    pen.tube([(-0.06, -0.37), (0, -0.34), (0.06, -0.37)], 0.03, ROSE, outlined=False)


DRAWINGS = {
    "deer": _deer,
    "cat": _cat,
    "rabbit": _rabbit,
    "elephant": _elephant,
    "fish": _fish,
    "duck": _duck,
    "turtle": _turtle,
    "butterfly": _butterfly,
}
