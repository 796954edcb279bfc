"""Vector pictographs: a `Pen` collects shapes in a unit box, `rasterise` turns them into a sprite.

Coordinates: the box is [-1, 1] x [-1, 1], x to the right, y down. Shapes are painted in the order they are drawn.
Every shape carries the index of the named part it belongs to, so that masks are exact by construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image, ImageDraw

Number = float | int  # drawings are written by hand: 0 and 0.0 are the same place
Point = tuple[Number, Number]
Colour = tuple[int, int, int]

PALETTE: dict[str, Colour] = {
    "red": (214, 48, 49),
    "orange": (240, 135, 35),
    "yellow": (246, 205, 60),
    "green": (70, 160, 75),
    "blue": (58, 110, 205),
    "purple": (134, 76, 176),
    "pink": (240, 140, 175),
    "brown": (137, 88, 52),
    "white": (243, 241, 236),
    "gray": (140, 146, 152),
    "black": (48, 46, 52),
}

SUPERSAMPLE = 2
BODY = 1  # part index of everything that has no part name; 0 is "not the object"


def mix(a: Colour, b: Colour, t: Number) -> Colour:
    """Colour `a` moved towards `b` by `t` in [0, 1]."""
    return tuple(round(p + (q - p) * t) for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


BLOB_STEPS = np.linspace(0, 1, 6, endpoint=False)[None, :, None]
CAP_ANGLES = np.radians(np.linspace(0, 180, 7)[1:-1])[:, None]
CAP_COS, CAP_SIN = np.cos(CAP_ANGLES), np.sin(CAP_ANGLES)


@lru_cache(maxsize=256)
def _arc(start: Number, stop: Number) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine along an arc given in degrees; a full turn does not repeat its first point."""
    t = np.radians(np.linspace(start, stop, 24, endpoint=stop - start < 360))
    return np.cos(t), np.sin(t)


@lru_cache(maxsize=64)
def _steps(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Five steps from each of `count` points to the next: their position, the point before, and the rest."""
    at = np.linspace(0, count - 1, 5 * (count - 1) + 1)
    base = np.minimum(at.astype(int), count - 2)
    return at, base, (at - base)[:, None]


@dataclass(frozen=True)
class Shape:
    """One closed polygon of a pictograph, in unit coordinates."""

    points: np.ndarray  # float "n 2"
    fill: Colour
    part: int
    outlined: bool
    tinted: bool  # drawn in the object's own colour: takes the texture


@dataclass
class Pen:
    """Collects the shapes of one object. `main`, `dark`, `light` are shades of the object's own colour."""

    main: Colour
    rng: np.random.Generator
    parts: tuple[str, ...] = ()
    shapes: list[Shape] = field(default_factory=list)

    @cached_property
    def dark(self) -> Colour:
        return mix(self.main, (20, 16, 24), 0.32)

    @cached_property
    def light(self) -> Colour:
        return mix(self.main, (255, 252, 245), 0.45)

    def vary(self, low: Number, high: Number) -> float:
        """A uniform random number, for every proportion that may differ between two objects of a kind."""
        return float(self.rng.uniform(low, high))

    def chance(self, p: Number) -> bool:
        return bool(self.rng.random() < p)

    def poly(
        self, points: Iterable[Point] | np.ndarray, fill: Colour, part: str | None = None, outlined: bool = True
    ) -> None:
        """A polygon with straight sides."""
        corners = points if isinstance(points, np.ndarray) else np.array(list(points), dtype=float)
        index = BODY if part is None else 2 + self.parts.index(part)
        tinted = fill in (self.main, self.dark, self.light)
        self.shapes.append(Shape(corners, fill, index, outlined, tinted))

    def blob(self, points: Sequence[Point], fill: Colour, part: str | None = None, outlined: bool = True) -> None:
        """A smooth closed outline through the points (Catmull-Rom)."""
        p = np.array(points, dtype=float)
        t = BLOB_STEPS
        ring = np.concatenate([p[-1:], p, p[:2]])[:, None]
        a, b, c, d = ring[:-3], ring[1:-2], ring[2:-1], ring[3:]
        curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        self.poly(curve.reshape(-1, 2), fill, part, outlined)

    def ellipse(
        self,
        x: Number,
        y: Number,
        rx: Number,
        ry: Number,
        fill: Colour,
        part: str | None = None,
        outlined: bool = True,
        angle: Number = 0.0,
        start: Number = 0.0,
        stop: Number = 360.0,
    ) -> None:
        """An ellipse, or the segment of it from `start` to `stop` degrees (0 = right, 90 = down), closed by a chord."""
        cos, sin = _arc(start, stop)
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        u, v = rx * cos, ry * sin
        self.poly(np.stack([x + c * u - s * v, y + s * u + c * v], axis=1), fill, part, outlined)

    def rect(
        self,
        x0: Number,
        y0: Number,
        x1: Number,
        y1: Number,
        fill: Colour,
        part: str | None = None,
        outlined: bool = True,
        round: Number = 0.0,
    ) -> None:
        """A rectangle with corners rounded by `round`."""
        if round <= 0:
            return self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, part, outlined)
        r = min(round, abs(x1 - x0) / 2, abs(y1 - y0) / 2)
        corners = [(x1 - r, y0 + r, -90), (x1 - r, y1 - r, 0), (x0 + r, y1 - r, 90), (x0 + r, y0 + r, 180)]
        arcs = [
            (cx + r * math.cos(math.radians(a + d)), cy + r * math.sin(math.radians(a + d)))
            for cx, cy, a in corners
            for d in (0, 30, 60, 90)
        ]
        self.poly(arcs, fill, part, outlined)

    def tube(
        self,
        points: Sequence[Point],
        width: Number | Sequence[Number],
        fill: Colour,
        part: str | None = None,
        outlined: bool = True,
    ) -> None:
        """A thick smooth line through the points with round ends; `width` may be given per point (it tapers)."""
        p = np.array(points, dtype=float)
        w = np.broadcast_to(np.asarray(width, dtype=float), (len(p),))
        at, base, t = _steps(len(p))
        q = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
        a, b, c, d = q[base], q[base + 1], q[base + 2], q[base + 3]
        line = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        half = np.interp(at, np.arange(len(p)), w)[:, None] / 2
        tangent = np.concatenate([line[1:2] - line[:1], (line[2:] - line[:-2]) / 2.0, line[-1:] - line[-2:-1]])
        tangent /= np.sqrt((tangent * tangent).sum(axis=1, keepdims=True)) + 1e-9
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
        cap_end = line[-1] + half[-1] * (CAP_COS * normal[-1] + CAP_SIN * tangent[-1])
        cap_start = line[0] - half[0] * (CAP_COS * normal[0] + CAP_SIN * tangent[0])
        outline = np.concatenate([line + half * normal, cap_end, (line - half * normal)[::-1], cap_start])
        self.poly(outline, fill, part, outlined)

    def eye(self, x: Number, y: Number, r: Number = 0.07) -> None:
        """A friendly eye: white, pupil, glint. A detail: it belongs to the body and has no outline."""
        self.ellipse(x, y, r, r, (252, 252, 250), outlined=False)
        self.ellipse(x + r * 0.15, y, r * 0.62, r * 0.68, (30, 26, 34), outlined=False)
        self.ellipse(x - r * 0.1, y - r * 0.25, r * 0.2, r * 0.2, (255, 255, 255), outlined=False)


@dataclass(frozen=True)
class Sprite:
    """A drawn object: colour, coverage and part index of every pixel of its bounding box."""

    rgb: np.ndarray  # uint8 "h w 3"
    alpha: np.ndarray  # uint8 "h w": antialiased coverage
    parts: np.ndarray  # uint8 "h w": 0 nothing, BODY, 2 + i for the pen's part i


def rasterise(pen: Pen, size: Number, angle: Number = 0.0, flip: bool = False, stretch: Number = 1.0) -> Sprite:
    """Draw the pen's shapes so that the longer side of their bounding box spans `size` pixels.

    `angle` rotates (degrees, clockwise), `flip` mirrors, `stretch` widens (> 1) or narrows the shape.
    """
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[c, s], [-s, c]]) * np.array([[-stretch if flip else stretch], [1.0]])
    placed = [shape.points @ turn for shape in pen.shapes]
    everything = np.concatenate(placed)
    low, extent = everything.min(0), np.ptp(everything, axis=0)
    line = max(1, round(SUPERSAMPLE * (0.7 + size / 110)))
    scale = SUPERSAMPLE * size / extent.max()
    w, h = (math.ceil(e * scale / SUPERSAMPLE) + 4 for e in extent)
    ink = mix(pen.main, (24, 18, 28), 0.78)
    rgb = Image.new("RGB", (w * SUPERSAMPLE, h * SUPERSAMPLE), ink)
    index = Image.new("L", rgb.size, 0)
    tint = Image.new("L", rgb.size, 0)
    on_rgb, on_index, on_tint = ImageDraw.Draw(rgb), ImageDraw.Draw(index), ImageDraw.Draw(tint)
    for shape, points in zip(pen.shapes, placed, strict=True):
        xy = ((points - low) * scale + 2 * SUPERSAMPLE).ravel().tolist()
        on_rgb.polygon(xy, fill=shape.fill)
        on_index.polygon(xy, fill=shape.part)
        on_tint.polygon(xy, fill=255 * shape.tinted)
        if shape.outlined:
            loop = xy + xy[:4]
            on_rgb.line(loop, fill=ink, width=line, joint="curve")
            on_index.line(loop, fill=shape.part, width=line, joint="curve")
    return _downsample(pen, rgb, index, tint)


def _downsample(pen: Pen, rgb: Image.Image, index: Image.Image, tint: Image.Image) -> Sprite:
    colour = np.asarray(rgb.reduce(SUPERSAMPLE))
    fine = np.asarray(index)
    alpha = np.asarray(Image.fromarray((fine > 0).astype(np.uint8) * 255).reduce(SUPERSAMPLE))
    parts = fine[::SUPERSAMPLE, ::SUPERSAMPLE]
    solid = np.where(alpha > 127, np.maximum(parts, fine[1::SUPERSAMPLE, 1::SUPERSAMPLE]), 0)
    solid = np.where((alpha > 127) & (solid == 0), BODY, solid).astype(np.uint8)
    soft = np.asarray(tint.reduce(SUPERSAMPLE))
    return Sprite(_shade(pen, colour, soft), alpha, solid)


def _shade(pen: Pen, colour: np.ndarray, tint: np.ndarray) -> np.ndarray:
    """Light from above on everything, and one texture (none, stripes, spots, grain) on the object's own colour."""
    h, w = tint.shape
    y, x = np.ogrid[0:h, 0:w]
    gain = np.broadcast_to(1.10 - 0.22 * y / h, (h, w))
    kind = int(pen.rng.integers(0, 6))
    if kind < 3:
        step = pen.vary(5, 11)
        turn = pen.vary(0, math.pi)
        phase = (math.cos(turn) * x + math.sin(turn) * y) * (2 * math.pi / step)
        if kind == 0:
            pattern = np.sin(phase)
        elif kind == 1:
            across = (math.cos(turn + math.pi / 2) * x + math.sin(turn + math.pi / 2) * y) * (2 * math.pi / step)
            pattern = np.where(np.sin(phase) * np.sin(across) > 0.35, -1.0, 0.0)
        else:
            pattern = pen.rng.standard_normal((h, w)) * 0.6
        gain = gain + pattern * (tint / 255.0) * pen.vary(0.03, 0.09)
    return np.clip(colour * gain[..., None], 0, 255).astype(np.uint8)
