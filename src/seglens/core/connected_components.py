"""Connected regions of a mask, by runs of pixels: no loop over pixels, nor over regions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from seglens.core.mask_logits import bands


@dataclass(frozen=True, eq=False)
class PixelRuns:
    """A mask as runs of pixels in raster order, each with the number of its region."""

    row: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n"]
    end: Int[np.ndarray, " n"]  # exclusive
    region: Int[np.ndarray, " n"]  # numbered from 0 in raster order of first pixels

    @property
    def areas(self) -> Int[np.ndarray, " k"]:
        """Pixels of each region."""
        return np.bincount(self.region, self.end - self.start).astype(np.int64)

    def paint(self, onto: Int[np.ndarray, "h w"], numbers: Int[np.ndarray, " k"]) -> None:
        """Write each region's number over its pixels; 0 writes nothing."""
        for k in np.flatnonzero(numbers[self.region]).tolist():
            onto[self.row[k], self.start[k] : self.end[k]] = numbers[self.region[k]]


def regions(mask: Bool[np.ndarray, "h w"]) -> PixelRuns:
    """The connected regions of a mask.

    Pixels that touch, also at a corner, are in one region. Rows are cut into runs; runs of neighbouring rows that touch
    are joined by hooking and pointer jumping (Shiloach and Vishkin 1982): a few passes over arrays, for any shape."""
    row, start, end = _runs(mask)
    upper, lower = _touching(row, start, end, mask.shape[1] + 2)
    root = np.arange(len(row))
    while (root[upper] != root[lower]).any():
        low = np.minimum(root[upper], root[lower])
        np.minimum.at(root, root[upper], low)
        np.minimum.at(root, root[lower], low)
        while (root[root] != root).any():
            root = root[root]
    return PixelRuns(row, start, end, np.unique(root, return_inverse=True)[1])


def label_regions(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """The number of each pixel's region, from 1 in raster order of first pixels; 0 outside the mask."""
    runs = regions(mask)
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = np.repeat(runs.region + 1, runs.end - runs.start)
    return labels


def box_of(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int] | None:
    """x0, y0, x1, y1 of the mask (x1, y1 exclusive), or None when it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def depth(mask: Bool[np.ndarray, "h w"], border: bool = True) -> Int[np.ndarray, "h w"]:
    """Steps along a row or a column from each pixel of the mask to the nearest one outside; 0 outside the mask.

    With `border` all beyond the picture is outside; without, nothing is known about it, and in a mask that fills the
    picture every depth is greater than the picture's length."""
    padded = np.pad(mask, 1, constant_values=not border)
    ways = (_since(padded), _since(padded[:, ::-1])[:, ::-1], _since(padded.T).T, _since(padded.T[:, ::-1])[:, ::-1].T)
    return np.minimum.reduce(ways)[1:-1, 1:-1]


def middle(region: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """Row and column of the deepest pixel of a region, the first of them."""
    row, column = np.unravel_index(depth(region).argmax(), region.shape)
    return int(row), int(column)


def _since(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Steps along the row since the last pixel outside the mask."""
    at = np.arange(mask.shape[1])
    return at - np.maximum.accumulate(np.where(mask, -sum(mask.shape), at), axis=1)


def _runs(mask: Bool[np.ndarray, "h w"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Row, first column and end (exclusive) of every run of pixels, in raster order."""
    parts = []
    for rows in bands(*mask.shape):
        padded = np.pad(mask[rows], ((0, 0), (1, 1)))
        row, start = np.nonzero(padded[:, 1:] & ~padded[:, :-1])
        parts.append((row + rows.start, start, np.nonzero(padded[:, :-1] & ~padded[:, 1:])[1]))
    row, start, end = (np.concatenate(some) for some in zip(*parts, strict=True)) if parts else np.zeros((3, 0), int)
    return row, start, end


def _touching(
    row: Int[np.ndarray, " n"], start: Int[np.ndarray, " n"], end: Int[np.ndarray, " n"], width: int
) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " e"]]:
    """Pairs of runs in neighbouring rows that share a side or a corner: those below one run follow each other."""
    below = (row + 1) * width
    first = np.searchsorted(row * width + end, below + start, "left")
    count = np.maximum(np.searchsorted(row * width + start, below + end, "right") - first, 0)
    upper = np.repeat(np.arange(len(row)), count)
    within = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count, count)
    return upper, first[upper] + within
