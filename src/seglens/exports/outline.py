"""The outline of a mask as polygons with holes, on the edges of pixels, so that they cover exactly its pixels.

Our own code and not OpenCV's `findContours`, which traces through the centres of pixels: filled again, its polygons
have other pixels. (The edge of a mask as pixels: `core.mask_edges`.)

Points are (x, y) of pixel corners: pixel i covers [i, i + 1). Every ring is simple: it visits no corner twice. Rings
turn so that the shoelace formula gives outer ones a positive area and holes a negative one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from seglens.core.connected_components import box_of


@dataclass(frozen=True, eq=False)
class Bridge:
    """Where a hole is reached from another ring of its region: from (`x`, y) straight to the right to the hole's first
    point, over nothing but pixels of the mask."""

    hole: int  # index in `Region.rings`
    ring: int  # index of the other ring, which is smaller
    after: int  # the bridge leaves between this point of the other ring and its next one
    x: int


@dataclass(frozen=True, eq=False)
class Region:
    """Pixels of a mask that are connected by their sides: an outer ring, then its holes, each with its bridge."""

    rings: list[Int[np.ndarray, "_ 2"]] = field(default_factory=list)
    bridges: list[Bridge] = field(default_factory=list)


def regions_of(mask: Bool[np.ndarray, "h w"]) -> tuple[Region, ...]:
    """The regions of the mask, from left to right and top to bottom; none when it is empty.

    Pixels that touch only at a corner are not connected. Vectorised over pixels and corners; one loop over rings."""
    box = box_of(mask)
    if box is None:
        return ()
    x0, y0, x1, y1 = box
    cut = mask[y0:y1, x0:x1]
    traced = _trace(cut)
    homes: list[tuple[Region, int]] = []  # of every ring: its region, and its index in there
    for points in traced.rings():
        if traced.is_outer(points):
            home = Region()
        else:
            ring, after, x = traced.left_of(points[0], cut)
            home, place = homes[ring]
            home.bridges.append(Bridge(len(home.rings), place, after, x + x0))
        homes.append((home, len(home.rings)))
        home.rings.append(points + np.array([x0, y0]))
    return tuple(home for home, place in homes if place == 0)


@dataclass(frozen=True, eq=False)
class _Traced:
    """All rings, one after the other, by their leftmost points; each starts there, with a vertical edge: downwards in a
    hole, upwards in an outer ring."""

    points: Int[np.ndarray, "n 2"]
    firsts: Int[np.ndarray, " r"]  # where each ring starts in `points`
    tops: Int[np.ndarray, " e"]  # the upper ends of all vertical edges, as x * stride + y, in order
    starts: Int[np.ndarray, " e"]  # where in `points` each of these edges starts
    stride: int

    def rings(self) -> list[Int[np.ndarray, "_ 2"]]:
        return np.split(self.points, self.firsts[1:])

    @staticmethod
    def is_outer(ring: Int[np.ndarray, "_ 2"]) -> bool:
        return bool(ring[1, 1] < ring[0, 1])

    def left_of(self, point: Int[np.ndarray, " 2"], mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int]:
        """The next ring to the left of a hole's first point, the point of it after which that is, and where (x)."""
        right, y = point.tolist()
        gaps = np.flatnonzero(~mask[y, :right])
        x = int(gaps[-1]) + 1 if len(gaps) else 0
        edge = np.searchsorted(self.tops, x * self.stride + y, side="right") - 1
        start = self.starts[edge]
        ring = int(np.searchsorted(self.firsts, start, side="right")) - 1
        return ring, int(start - self.firsts[ring]), x


def _trace(mask: Bool[np.ndarray, "h w"]) -> _Traced:
    corners = _Corners.of(mask)
    label = _labels(corners.following())
    # Where one ring touches itself, its two corners change roles, and it becomes two rings.
    again = corners.upper[label[corners.upper >> 1] == label[(corners.upper + 1) >> 1]]
    corners.right[again], corners.right[again + 1] = corners.right[again + 1], corners.right[again]
    following = corners.following()
    label = _labels(following)
    order = np.lexsort((-_steps_left(following, label), label))
    walked = np.stack([corners.start[order], corners.start[order] ^ 1], 1).ravel()
    place = np.empty_like(order)
    place[order] = 2 * np.arange(len(order))
    firsts = 2 * np.flatnonzero(np.diff(label[order], prepend=-1))
    stride = mask.shape[0] + 1
    tops = corners.x[::2] * stride + corners.y[::2]
    return _Traced(np.stack([corners.x, corners.y], 1)[walked], firsts, tops, place, stride)


@dataclass(frozen=True, eq=False)
class _Corners:
    """Corners in the order of columns: two that follow each other (0 and 1, 2 and 3, ...) are joined by a vertical
    edge; in the order of rows, by a horizontal one. A point where two pixels touch at their corners is two corners: the
    upper one ends a vertical edge, the lower one starts the next."""

    x: Int[np.ndarray, " n"]
    y: Int[np.ndarray, " n"]
    upper: Int[np.ndarray, " t"]  # the upper ones of two corners at a point
    right: Bool[np.ndarray, " n"]  # whether the corner's horizontal edge lies to its right
    start: Int[np.ndarray, " e"]  # the corner where each vertical edge starts; it ends at the other one, `start ^ 1`

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "h w"]) -> _Corners:
        padded = np.pad(mask, 1).T
        a, c = padded[:-1, :-1], padded[:-1, 1:]  # of the four pixels around a point: upper and lower left,
        b, d = padded[1:, :-1], padded[1:, 1:]  # upper and lower right
        touch = (a == d) & (b == c) & (a != b)
        number = np.where(touch, 2, a ^ b ^ c ^ d)
        x, y = (np.repeat(axis, number[number > 0]) for axis in np.nonzero(number))
        upper = np.flatnonzero(touch[x, y])[::2]
        right = (b != d)[x, y]
        # Of two corners at a point, each bounds one of the two pixels.
        right[upper], right[upper + 1] = b[x[upper], y[upper]], a[x[upper], y[upper]]
        top = np.arange(0, len(x), 2)
        start = np.where(d[x[top], y[top]], top + 1, top)  # upwards where the mask is on the right
        return cls(x, y, upper, right, start)

    def following(self) -> Int[np.ndarray, " e"]:
        """The vertical edge that comes after each one, over the horizontal edge at its end."""
        rows = np.lexsort((self.right, self.x, self.y))
        across = np.empty_like(rows)
        across[rows[::2]], across[rows[1::2]] = rows[1::2], rows[::2]
        return across[self.start ^ 1] >> 1


def _labels(following: Int[np.ndarray, " e"]) -> Int[np.ndarray, " e"]:
    """The smallest edge of every edge's ring, by looking twice as far ahead in each step."""
    label, jump = np.arange(len(following)), following
    for _ in range(len(following).bit_length()):
        label, jump = np.minimum(label, label[jump]), jump[jump]
    return label


def _steps_left(following: Int[np.ndarray, " e"], label: Int[np.ndarray, " e"]) -> Int[np.ndarray, " e"]:
    """How many edges a ring goes on from each edge until it is back at the smallest."""
    edges = np.arange(len(following))
    last = label == following
    jump = np.where(last, edges, following)
    steps = np.where(last, 0, 1)
    for _ in range(len(following).bit_length()):
        steps, jump = steps + steps[jump], jump[jump]
    return steps
