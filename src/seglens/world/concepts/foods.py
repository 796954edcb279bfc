"""Drawings of things to eat."""

from seglens.world.draw import Pen, mix

LEAF, LEAF_DARK = (96, 178, 72), (62, 132, 58)
CREAM, WAFFLE, DOUGH, TWIG = (255, 243, 216), (222, 164, 92), (208, 142, 74), (104, 70, 44)
SHINE = (255, 250, 240)


def _apple(pen: Pen) -> None:
    wide, foot, lean = pen.vary(0.74, 0.84), pen.vary(0.3, 0.4), pen.vary(-0.06, 0.1)
    pen.tube([(0, -0.35), (0.02, -0.6), (lean, -0.86)], [0.11, 0.11, 0.14], TWIG)
    pen.blob([(0.05, -0.5), (0.2, -0.86), (0.55, -0.98), (0.9, -0.88), (0.68, -0.6), (0.35, -0.46)], LEAF, "leaves")
    pen.blob([(-0.02, -0.5), (-0.18, -0.8), (-0.44, -0.9), (-0.72, -0.8), (-0.55, -0.58)], LEAF, "leaves")
    pen.tube([(0.18, -0.6), (0.45, -0.74), (0.7, -0.85)], 0.05, LEAF_DARK, "leaves", outlined=False)
    pen.blob(
        [
            (0, -0.4),
            (0.38, -0.54),
            (wide, -0.24),
            (wide - 0.04, 0.24),
            (foot, 0.76),
            (0.02, 0.7),
            (-foot, 0.76),
            (0.04 - wide, 0.24),
            (-wide, -0.24),
            (-0.38, -0.54),
        ],
        pen.main,
    )
    pen.blob([(-0.12, -0.36), (0, -0.31), (0.12, -0.36), (0, -0.24)], pen.dark, outlined=False)
    pen.ellipse(-0.48, -0.18, 0.13, 0.22, pen.light, outlined=False, angle=22)
    pen.ellipse(-0.53, 0.14, 0.06, 0.08, pen.light, outlined=False, angle=10)
    if pen.chance(0.35):  # a worm
        pen.ellipse(0.3, 0.26, 0.14, 0.11, pen.dark, outlined=False)
        pen.tube([(0.3, 0.28), (0.44, 0.3), (0.56, 0.16), (0.55, -0.02)], [0.14, 0.16, 0.16, 0.2], (206, 216, 112))
        pen.eye(0.56, -0.04, 0.065)


def _banana(pen: Pen) -> None:
    bend, tip, curl = pen.vary(0.5, 0.62), pen.vary(-0.95, -0.85), pen.vary(-0.06, 0.08)
    spine = [(-0.88, 0.5), (-0.35, bend + 0.08), (0.12, bend - 0.25), (0.36, -0.2)]
    pen.tube([(0.14, 0.2), (0.36, -0.25), (0.46, -0.6), (0.42, tip + 0.08)], [0.44, 0.42, 0.36, 0.22], CREAM)
    pen.tube([(0.4, -0.05), (0.5, -0.35), (0.53, -0.62)], 0.05, (236, 214, 166), outlined=False)
    pen.blob(
        [(0.1, -0.12), (-0.1, -0.4), (-0.42, -0.46 + curl), (-0.72, -0.2), (-0.4, -0.22), (-0.22, 0.1), (0, 0.34)],
        pen.light,
        "peel",
    )
    pen.blob(
        [(0.5, -0.2), (0.74, -0.34), (0.96, -0.12), (0.94, 0.36 + curl), (0.76, 0.1), (0.6, 0.14), (0.34, 0.4)],
        pen.light,
        "peel",
    )
    pen.tube([*spine[:3], (0.3, -0.02)], [0.14, 0.42, 0.56, 0.5], pen.main, "peel")
    pen.poly([(0.02, 0.04), (0.16, -0.44), (0.36, -0.02), (0.58, -0.36), (0.56, 0.1)], pen.main, "peel", outlined=False)
    pen.tube(
        [(-0.66, 0.56), (-0.25, bend + 0.1), (0.2, bend - 0.18), (0.4, 0.02)],
        0.07,
        pen.dark,
        "peel",
        outlined=False,
    )
    pen.tube([(-0.97, 0.44), (-0.84, 0.51)], 0.16, TWIG, "peel")


def _pizza(pen: Pen) -> None:
    salami, left = (186, 52, 44), pen.vary(-0.38, -0.28)
    drip = pen.vary(0.34, 0.44)
    pen.tube([(-0.36, -0.2), (-0.44, 0.1), (-0.43, drip)], [0.2, 0.2, 0.17], pen.main)
    pen.tube([(0.24, 0.0), (0.3, 0.3), (0.29, drip + 0.16)], [0.2, 0.2, 0.17], pen.main)
    pen.poly([(-0.86, -0.6), (0.86, -0.6), (0.07, 0.96), (-0.07, 0.96)], pen.main)
    for x, y, r in ((left, -0.2, 0.19), (0.36, -0.24, 0.17), (0.02, 0.32, 0.16)):
        pen.ellipse(x, y, r, r, salami)
        pen.ellipse(x - 0.05, y - 0.05, r * 0.42, r * 0.36, (222, 96, 80), outlined=False)
    pen.ellipse(0.04, -0.06, 0.13, 0.07, LEAF_DARK, outlined=False, angle=pen.vary(-50, 50))
    pen.ellipse(-0.13, 0.12, 0.06, 0.05, pen.light, outlined=False)
    pen.tube([(-0.84, -0.6), (-0.4, -0.74), (0.4, -0.74), (0.84, -0.6)], [0.24, 0.28, 0.28, 0.24], DOUGH, "crust")
    pen.tube([(-0.72, -0.7), (-0.35, -0.79), (0.2, -0.8)], 0.06, (236, 184, 118), "crust", outlined=False)


def _icecream(pen: Pen) -> None:
    fat, top, lean = pen.vary(0.5, 0.57), pen.vary(-0.62, -0.54), pen.vary(-0.06, 0.06)
    pen.poly([(-0.46, 0.06), (0.46, 0.06), (0.06, 1.0), (-0.06, 1.0)], WAFFLE, "cone")
    for s in (-1, 1):
        for a, b in (((s * 0.3, 0.3), (s * -0.1, 0.84)), ((s * 0.08, 0.12), (s * -0.2, 0.56))):
            pen.tube([a, b], 0.05, (178, 118, 58), "cone", outlined=False)
    if pen.chance(0.5):
        pen.ellipse(lean, top - 0.42, 0.14, 0.14, (200, 36, 52))
    pen.ellipse(lean, top, fat * 0.86, fat * 0.84, pen.light)
    pen.blob(
        [
            (-fat, -0.1),
            (-0.36, -0.42),
            (0, -0.52),
            (0.36, -0.42),
            (fat, -0.1),
            (fat - 0.02, 0.14),
            (0.36, 0.1),
            (0.24, 0.34),
            (0.1, 0.14),
            (-0.12, 0.12),
            (-0.24, 0.22),
            (-0.36, 0.1),
            (0.02 - fat, 0.14),
        ],
        pen.main,
    )
    pen.ellipse(lean - 0.18, top - 0.16, 0.13, 0.09, SHINE, outlined=False, angle=-35)
    pen.ellipse(-0.26, -0.22, 0.1, 0.06, pen.light, outlined=False, angle=-35)


def _cake(pen: Pen) -> None:
    tall, fall = pen.vary(-0.3, -0.2), pen.vary(-0.04, 0.06)
    pen.ellipse(0, 0.82, 0.98, 0.16, (226, 232, 238))
    for x in (-0.42, 0.0, 0.42):
        pen.rect(x - 0.09, tall - 0.42, x + 0.09, tall + 0.08, (120, 200, 226), "candles")
        pen.poly(
            [(x - 0.09, tall - 0.2), (x + 0.09, tall - 0.34), (x + 0.09, tall - 0.2), (x - 0.09, tall - 0.06)],
            SHINE,
            "candles",
            outlined=False,
        )
        pen.blob(
            [(x, tall - 0.84), (x + 0.12, tall - 0.56), (x, tall - 0.42), (x - 0.12, tall - 0.56)],
            (255, 190, 50),
            "candles",
        )
    pen.rect(-0.82, tall, 0.82, 0.84, pen.main, round=0.14)
    pen.rect(-0.79, 0.42, 0.79, 0.54, pen.dark, outlined=False)
    edge = [(-0.58, 0.2), (-0.3, 0.06), (0, 0.26), (0.28, 0.06), (0.56, 0.2)]
    drips = [(x, tall + y + fall) for x, y in edge]
    pen.blob(
        [
            (-0.84, tall + 0.04),
            (-0.5, tall - 0.07),
            (0.5, tall - 0.07),
            (0.84, tall + 0.04),
            (0.82, tall + 0.22),
            *drips[::-1],
            (-0.82, tall + 0.22),
        ],
        CREAM,
        "icing",
    )


def _carrot(pen: Pen) -> None:
    fat, tip = pen.vary(0.42, 0.52), pen.vary(-0.08, 0.08)
    for x, y, w in ((-0.46, -0.82, 0.22), (0.46, -0.82, 0.22), (0.0, -1.0, 0.26)):
        pen.tube([(x * 0.15, -0.3), (x * 0.6, -0.62), (x, y)], [0.12, w, w * 0.7], LEAF, "leaves")
        pen.tube([(x * 0.2, -0.4), (x * 0.85, y + 0.08)], 0.04, LEAF_DARK, "leaves", outlined=False)
    pen.blob(
        [
            (-fat * 0.7, -0.4),
            (0, -0.36),
            (fat * 0.7, -0.4),
            (fat, -0.2),
            (fat * 0.66, 0.3),
            (tip + 0.09, 0.92),
            (tip - 0.02, 1.0),
            (tip - 0.1, 0.9),
            (-fat * 0.66, 0.3),
            (-fat, -0.2),
        ],
        pen.main,
    )
    for side, y, reach in ((-1, -0.08, 0.3), (1, 0.14, 0.24), (-1, 0.4, 0.18)):
        pen.tube(
            [(side * fat * (0.76 - max(y, 0) * 0.7), y), (side * (fat - reach) * 0.5, y + 0.05)],
            0.065,
            pen.dark,
            outlined=False,
        )
    pen.ellipse(fat * 0.45, -0.14, 0.06, 0.13, pen.light, outlined=False, angle=10)


def _cheese(pen: Pen) -> None:
    back, nose, deep = pen.vary(-0.62, -0.5), pen.vary(-0.12, 0.0), pen.vary(0.62, 0.72)
    pen.poly([(-0.96, nose), (0.42, back), (0.96, nose - 0.16), (0.96, nose + 0.1)], pen.light)
    pen.poly([(-0.96, nose), (0.96, nose), (0.96, deep), (-0.96, deep)], pen.main)
    pen.poly([(-0.96, nose), (0.42, back), (0.96, nose - 0.16), (0.96, nose)], pen.light)
    shade = mix(pen.main, (60, 30, 30), 0.55)
    for x, y, r in ((-0.52, 0.3, 0.19), (0.06, 0.2, 0.13), (0.34, 0.44, 0.2), (-0.1, 0.52, 0.1), (0.74, 0.18, 0.13)):
        r *= pen.vary(0.94, 1.1)
        pen.ellipse(x, y, r, r, pen.dark, "holes")
        pen.ellipse(x - r * 0.14, y - r * 0.14, r * 0.7, r * 0.7, shade, "holes", outlined=False)
    pen.ellipse(0.36, nose - 0.26, 0.2, 0.09, pen.dark, "holes", angle=6)


DRAWINGS = {
    "apple": _apple,
    "banana": _banana,
    "pizza": _pizza,
    "icecream": _icecream,
    "cake": _cake,
    "carrot": _carrot,
    "cheese": _cheese,
}
