"""Polygons painted as OpenCV does, because ReasonSeg's masks are defined by it.

LISA paints with `cv2.fillPoly` of opencv-python 4.8, and OpenCV 4.11 changed which pixels that fills (on most polygons
of a photograph, by a few pixels each). Our own code and not OpenCV, because it gives the pixels of 4.8 to 4.10 whatever
version is installed.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64

_SHIFT = 16  # OpenCV follows an edge in fixed point, with this many bits after the point


def paint(points: Int64[np.ndarray, "n 2"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The polygon of the corners (x, y), outline and inside (even-odd), on a canvas of (height, width).

    Corners may lie outside the canvas, but by no more than 32 bits."""
    edges = np.concatenate([np.roll(points, 1, axis=0), points], axis=1)
    cut, visible = _cut(edges, size)
    mask = _inside(edges, cut, size)
    columns, rows = _lines(cut[visible])
    mask[rows, columns] = True
    return mask


def _lines(edges: Int64[np.ndarray, "n 4"]) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """Columns and rows of the pixels of every edge (x, y, x, y): Bresenham's line, from left to right."""
    x0, y0, x1, y1 = np.where(edges[:, 2:3] < edges[:, :1], edges[:, [2, 3, 0, 1]], edges).T
    wide, high = x1 - x0, np.abs(y1 - y0)
    long, short = np.maximum(wide, high), np.minimum(wide, high)
    line, step = _ranges(long + 1)
    aside = -((long[line] - 2 * short[line] * step) // (2 * np.maximum(long, 1)[line]))
    steep = (high > wide)[line]
    down = np.where(y1 < y0, -1, 1)[line]
    return x0[line] + np.where(steep, aside, step), y0[line] + down * np.where(steep, step, aside)


def _inside(
    edges: Int64[np.ndarray, "n 4"], cut: Int64[np.ndarray, "n 4"], size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """The pixels between the first and second, third and fourth, ... edge that each row crosses.

    Two peculiarities of these versions: an edge that leaves the canvas has the slope of its visible part, whose ends
    are whole pixels; and an edge that does not is followed half a pixel to the right."""
    height, width = size
    half = np.where((cut == edges).all(axis=1), 1 << _SHIFT >> 1, 0)
    along = np.where(cut[:, 1:2] != cut[:, 3:4], cut, edges)
    crossing = edges[:, 1] != edges[:, 3]
    edges, along, half = edges[crossing], along[crossing], half[crossing]
    x0, y0, x1, y1 = np.where(along[:, 1:2] < along[:, 3:4], along, along[:, [2, 3, 0, 1]]).T
    slope = np.sign(x1 - x0) * ((np.abs(x1 - x0) << _SHIFT) // (y1 - y0))
    rows = np.clip(np.sort(edges[:, [1, 3]], axis=1), 0, height)
    edge, down = _ranges(rows[:, 1] - rows[:, 0])
    row = rows[edge, 0] + down
    x = (x0[edge] << _SHIFT) + half[edge] + slope[edge] * (row - y0[edge])
    order = np.lexsort((x, row))
    row, column = row[order][::2], x[order] >> _SHIFT
    turns = np.zeros((height, width + 1), np.int32)
    np.add.at(turns, (row, np.clip(column[::2], 0, width)), 1)
    np.add.at(turns, (row, np.clip(column[1::2] + 1, 0, width)), -1)
    return np.cumsum(turns, axis=1)[:, :width] > 0


def _ranges(lengths: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """The numbers 0..length-1 of every length in turn, after the index of that length."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]


def _cut(
    edges: Int64[np.ndarray, "n 4"], size: tuple[int, int]
) -> tuple[Int64[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
    """Edges cut to the canvas (Cohen and Sutherland), rows first, then columns; false for those that never touch it."""
    cut, right, bottom = edges.copy(), size[1] - 1, size[0] - 1
    visible = _may_touch(cut, 0, right) & _may_touch(cut, 1, bottom)
    _pull(cut, visible, 1, bottom)
    visible &= _may_touch(cut, 0, right)
    _pull(cut, visible, 0, right)
    return cut, visible


def _may_touch(edges: Int64[np.ndarray, "n 4"], axis: int, last: int) -> Bool[np.ndarray, " n"]:
    """False where both ends are outside 0..last on the same side."""
    ends = edges[:, [axis, axis + 2]]
    return (ends.max(axis=1) >= 0) & (ends.min(axis=1) <= last)


def _pull(edges: Int64[np.ndarray, "n 4"], which: Bool[np.ndarray, " n"], axis: int, last: int) -> None:
    """Move, in place, the ends that lie outside 0..last along their edges to the border: one end, then the other."""
    for near, far in ((0, 2), (2, 0)):
        goal = np.clip(edges[:, near + axis], 0, last)
        i = np.flatnonzero(which & (goal != edges[:, near + axis]))
        run, rise = edges[i, far + 1 - axis] - edges[i, near + 1 - axis], edges[i, far + axis] - edges[i, near + axis]
        share = (goal[i] - edges[i, near + axis]).astype(np.float64) * run / rise
        edges[i, near + 1 - axis] += share.astype(np.int64)  # cut towards zero, as in C
        edges[i, near + axis] = goal[i]
