"""Drawings of things that carry people."""

from seglens.world.draw import Colour, Number, Pen

GLASS, GLINT, TYRE, STEEL = (190, 226, 242), (232, 247, 252), (46, 44, 50), (206, 212, 218)
LAMP, CANVAS = (255, 226, 120), (250, 243, 226)


def _wheel(
    pen: Pen, x: Number, y: Number, r: Number, hub: Colour = STEEL, tyre: Colour = TYRE, inner: Number = 0.56
) -> None:
    pen.ellipse(x, y, r, r, tyre, "wheels")
    pen.ellipse(x, y, r * inner, r * inner, hub, "wheels", outlined=False)
    pen.ellipse(x, y, r * 0.18, r * 0.18, tyre, "wheels", outlined=False)


def _car(pen: Pen) -> None:
    roof, hood, r = pen.vary(-0.62, -0.54), pen.vary(-0.06, 0.0), pen.vary(0.24, 0.27)
    pen.blob(
        [(-0.72, 0.06), (-0.56, roof + 0.16), (-0.26, roof - 0.04), (0.2, roof), (0.5, roof + 0.34), (0.62, 0.1)],
        pen.main,
    )
    pen.rect(-0.99, 0.24, 0.99, 0.42, pen.dark, round=0.08)
    if pen.chance(0.4):  # off on holiday
        pen.rect(-0.32, roof - 0.22, 0.16, roof, (176, 116, 66), round=0.06)
        pen.rect(-0.22, roof - 0.22, -0.15, roof, (104, 64, 40), outlined=False)
        pen.rect(-0.01, roof - 0.22, 0.06, roof, (104, 64, 40), outlined=False)
    pen.blob(
        [
            (-0.94, 0.2),
            (-0.86, -0.02),
            (-0.4, hood - 0.06),
            (0.5, hood - 0.04),
            (0.86, 0.06),
            (0.96, 0.26),
            (0.86, 0.46),
            (0, 0.48),
            (-0.88, 0.46),
        ],
        pen.main,
    )
    pen.poly([(-0.51, -0.08), (-0.41, roof + 0.2), (-0.07, roof + 0.13), (-0.07, -0.08)], GLASS, "windows")
    pen.poly(
        [(0.07, -0.08), (0.07, roof + 0.13), (0.19, roof + 0.15), (0.35, roof + 0.34), (0.43, -0.08)], GLASS, "windows"
    )
    pen.poly(
        [(-0.4, -0.12), (-0.32, roof + 0.22), (-0.22, roof + 0.2), (-0.3, -0.12)],
        GLINT,
        "windows",
        outlined=False,
    )
    pen.rect(-0.02, 0.1, 0.14, 0.16, pen.dark, outlined=False, round=0.03)
    pen.ellipse(0.86, 0.14, 0.1, 0.11, LAMP)
    for x in (-0.52, 0.52):
        _wheel(pen, x, 0.48, r)


def _bus(pen: Pen) -> None:
    roof, r = pen.vary(-0.66, -0.56), pen.vary(0.24, 0.27)
    pen.rect(-0.98, roof, 0.98, 0.46, pen.main, round=0.2)
    pen.rect(-0.95, 0.14, 0.95, 0.24, pen.light, outlined=False)
    for x in (-0.86, -0.4, 0.06):
        pen.rect(x, roof + 0.16, x + 0.37, roof + 0.52, GLASS, "windows", round=0.06)
        pen.poly(
            [(x + 0.08, roof + 0.46), (x + 0.19, roof + 0.22), (x + 0.27, roof + 0.22), (x + 0.16, roof + 0.46)],
            GLINT,
            "windows",
            outlined=False,
        )
    pen.rect(0.58, roof + 0.16, 0.96, roof + 0.6, GLASS, "windows", round=0.06)
    pen.ellipse(0.9, 0.32, 0.08, 0.08, LAMP)
    for x in (-0.54, 0.52):
        _wheel(pen, x, 0.46, r)


def _bicycle(pen: Pen) -> None:
    r, saddle, bar = pen.vary(0.43, 0.47), pen.vary(-0.46, -0.38), pen.vary(-0.62, -0.54)
    pale = (228, 236, 238)
    for x in (-0.56, 0.56):
        _wheel(pen, x, 0.34, r, pale, pen.main, 0.6)
    pedal, post, head = (-0.06, 0.38), (-0.24, saddle + 0.22), (0.36, -0.24)
    rear, front, seat, top = (-0.56, 0.34), (0.56, 0.34), (-0.28, saddle), (0.3, bar)
    for a, b in ((post, rear), (rear, pedal), (pedal, head), (post, head), (pedal, seat), (front, top)):
        pen.tube([a, b], 0.14, pen.main)
    pen.rect(0.42, -0.54, 0.98, -0.14, (206, 154, 94), "basket", round=0.1)
    for y in (-0.42, -0.28):
        pen.rect(0.48, y, 0.92, y + 0.05, (160, 108, 58), "basket", outlined=False)
    pen.tube([(0.32, bar), (0.16, bar - 0.06), (0.08, bar + 0.06)], 0.12, TYRE)
    pen.blob(
        [
            (-0.56, saddle - 0.06),
            (-0.4, saddle - 0.12),
            (-0.06, saddle - 0.06),
            (-0.1, saddle + 0.02),
            (-0.36, saddle + 0.12),
            (-0.52, saddle + 0.08),
        ],
        (110, 66, 42),
    )
    pen.ellipse(*pedal, 0.13, 0.13, STEEL)


def _airplane(pen: Pen) -> None:
    fat, wing, tail = pen.vary(0.27, 0.32), pen.vary(0.62, 0.74), pen.vary(-0.74, -0.64)
    pen.poly([(0.22, -0.16), (-0.22, -0.62), (-0.42, -0.62), (-0.2, -0.12)], pen.dark, "wings")
    pen.poly([(-0.94, tail), (-0.72, tail), (-0.4, -0.1), (-0.86, 0.0)], pen.main)
    pen.blob(
        [
            (-0.98, -0.14),
            (-0.5, -fat + 0.06),
            (0.2, -fat),
            (0.72, -0.22),
            (0.98, 0.06),
            (0.8, 0.24),
            (0.2, fat),
            (-0.4, 0.22),
        ],
        pen.main,
    )
    pen.poly([(-0.98, -0.12), (-0.64, -0.06), (-0.84, 0.14), (-1.02, 0.12)], pen.dark)
    pen.poly([(0.3, 0.08), (-0.32, wing), (-0.6, wing), (-0.26, 0.08)], pen.dark, "wings")
    for x in (-0.38, -0.16, 0.06, 0.28):
        pen.ellipse(x, -0.09, 0.075, 0.085, GLASS, outlined=False)
    pen.poly([(0.54, -0.2), (0.7, -0.2), (0.88, -0.02), (0.54, -0.02)], GLASS)
    pen.tube([(0.7, 0.14), (0.78, 0.17), (0.86, 0.12)], 0.04, pen.dark, outlined=False)


def _boat(pen: Pen) -> None:
    top, swell, keel = pen.vary(-0.98, -0.86), pen.vary(0.66, 0.78), pen.vary(0.5, 0.6)
    pen.tube([(-0.02, 0.3), (-0.02, top - 0.04)], 0.1, (122, 82, 50))
    pen.poly([(-0.02, top - 0.12), (-0.34, top), (-0.02, top + 0.1)], pen.main)
    pen.blob(
        [
            (0.06, top + 0.12),
            (0.42, -0.4),
            (swell, 0.02),
            (swell - 0.06, 0.14),
            (0.3, 0.16),
            (0.06, 0.14),
            (0.05, -0.3),
        ],
        CANVAS,
        "sail",
    )
    pen.poly([(0.1, -0.42), (0.38, -0.42), (swell - 0.14, -0.18), (0.1, -0.18)], pen.main, "sail", outlined=False)
    pen.blob(
        [(-0.12, top + 0.3), (-0.12, -0.2), (-0.12, 0.14), (-0.4, 0.15), (-0.64, 0.12), (-0.4, -0.22)],
        CANVAS,
        "sail",
    )
    pen.blob(
        [
            (-0.98, 0.2),
            (-0.5, 0.28),
            (0.4, 0.28),
            (0.98, 0.14),
            (0.84, 0.54),
            (keel, 0.84),
            (0, 0.88),
            (-keel, 0.84),
            (-0.84, 0.54),
        ],
        pen.main,
    )
    pen.tube([(-0.82, 0.48), (0, 0.53), (0.82, 0.45)], 0.09, pen.light, outlined=False)


def _rocket(pen: Pen) -> None:
    fat, burn, flare = pen.vary(0.36, 0.42), pen.vary(1.16, 1.32), pen.vary(0.66, 0.76)
    pen.blob(
        [(-0.28, 0.46), (0.28, 0.46), (0.34, 0.74), (0.2, 0.96), (0, burn), (-0.2, 0.96), (-0.34, 0.74)],
        (245, 130, 40),
        "flame",
    )
    pen.blob(
        [(-0.16, 0.54), (0.16, 0.54), (0.18, 0.76), (0, burn - 0.18), (-0.18, 0.76)],
        (255, 222, 90),
        "flame",
        outlined=False,
    )
    for s in (-1, 1):
        pen.blob(
            [(s * 0.26, 0.06), (s * 0.56, 0.22), (s * flare, 0.5), (s * flare, 0.76), (s * 0.5, 0.56), (s * 0.22, 0.5)],
            pen.dark,
            "fins",
        )
    pen.blob(
        [
            (0, -1.0),
            (fat * 0.7, -0.62),
            (fat, -0.14),
            (fat * 0.92, 0.26),
            (0.26, 0.58),
            (-0.26, 0.58),
            (-fat * 0.92, 0.26),
            (-fat, -0.14),
            (-fat * 0.7, -0.62),
        ],
        pen.main,
    )
    pen.ellipse(0, -0.2, 0.22, 0.22, STEEL)
    pen.ellipse(0, -0.2, 0.15, 0.15, GLASS, outlined=False)
    pen.ellipse(-0.05, -0.25, 0.05, 0.04, (255, 255, 255), outlined=False)
    pen.rect(-fat * 0.8, 0.28, fat * 0.8, 0.37, pen.light, outlined=False)
    pen.blob([(0, 0.24), (0.08, 0.42), (0.06, 0.68), (-0.06, 0.68), (-0.08, 0.42)], pen.dark, "fins")


def _tractor(pen: Pen) -> None:
    big, roof, pipe = pen.vary(0.44, 0.5), pen.vary(-0.92, -0.84), pen.vary(-0.66, -0.5)
    pen.rect(0.46, pipe, 0.6, -0.1, TYRE, round=0.04)
    pen.rect(-0.66, roof + 0.06, 0.1, 0.1, pen.main)
    pen.rect(-0.56, roof + 0.2, -0.28, -0.14, GLASS, "windows")
    pen.rect(-0.22, roof + 0.2, 0.02, -0.14, GLASS, "windows")
    pen.poly(
        [(-0.52, -0.24), (-0.4, roof + 0.24), (-0.34, roof + 0.24), (-0.46, -0.24)],
        GLINT,
        "windows",
        outlined=False,
    )
    pen.rect(-0.78, roof - 0.04, 0.2, roof + 0.12, pen.main, round=0.08)
    pen.blob(
        [(-0.7, -0.1), (0, -0.22), (0.6, -0.2), (0.88, -0.14), (0.94, 0.2), (0.86, 0.46), (0.2, 0.5), (-0.6, 0.4)],
        pen.main,
    )
    for y in (-0.02, 0.1):
        pen.rect(0.46, y, 0.72, y + 0.06, pen.dark, outlined=False)
    pen.ellipse(0.87, 0.02, 0.09, 0.1, LAMP)
    _wheel(pen, -0.42, 0.88 - big, big, pen.main, inner=0.6)
    _wheel(pen, 0.62, 0.62, 0.27, pen.main, inner=0.6)


DRAWINGS = {
    "car": _car,
    "bus": _bus,
    "bicycle": _bicycle,
    "airplane": _airplane,
    "boat": _boat,
    "rocket": _rocket,
    "tractor": _tractor,
}
