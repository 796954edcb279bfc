"""A mask's logits as the model drew them, on a small canvas, and read at the image's size a few rows at a time.

Logits at the image's size are four bytes for each pixel and query; a mask is one, and the canvas is some kilobytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seglens.core.geometry import Frame
from seglens.core.interruption import safe_point

BAND = 2**20  # numbers computed at a time: few enough for a processor's cache
TOGETHER = 2**24  # pixels of the masks computed at a time: many masks of a small image, one of a large one


def bands(rows: int, wide: int) -> Iterator[slice]:
    """All rows, some at a time; `wide` numbers are computed for each row. There is a safe point before each band."""
    step = max(1, BAND // max(1, wide))
    for first in range(0, rows, step):
        safe_point()
        yield slice(first, min(first + step, rows))


@dataclass(frozen=True, eq=False)
class Moves:
    """What single pixels add to the logits around them: `weight` at the pixel, and (1 - distance / `radius`)^2 of it
    further away, down to zero at `radius` pixels. As a covariance this is valid in the plane (Askey 1973)."""

    at: Int[np.ndarray, "n 2"]  # row, column
    weight: Float[np.ndarray, " n"]
    radius: float

    @staticmethod
    def fading(distance: Float[Tensor, "*n"], radius: float) -> Float[Tensor, "*n"]:
        return (1 - distance / radius).clamp(min=0).square()

    def add_to(self, band: Float[Tensor, "q r w"], first: int) -> None:
        """Add to rows of the image from the `first` on, in place. The cost is that of the pixels within the radius."""
        rows, columns = band.shape[1:]
        for (row, column), weight in zip(self.at.tolist(), self.weight.tolist(), strict=True):
            top, bottom = (self._clip(end + row - first, rows) for end in (-self.radius, self.radius + 1))
            left, right = (self._clip(end + column, columns) for end in (-self.radius, self.radius + 1))
            if top < bottom and left < right and weight:
                y = torch.arange(top, bottom, device=band.device, dtype=band.dtype) + (first - row)
                x = torch.arange(left, right, device=band.device, dtype=band.dtype) - column
                apart = (y[:, None].square() + x.square()).sqrt()
                band[:, top:bottom, left:right] += weight * self.fading(apart, self.radius)

    @staticmethod
    def _clip(place: float, most: int) -> int:
        return min(max(int(np.floor(place)), 0), most)


@dataclass(frozen=True, eq=False)
class Drawing:
    """Mask logits of q queries about one image."""

    frame: Frame
    canvas: Float[Tensor, "q s s"]
    moves: Moves | None = None  # by clicks, finer than the canvas

    def bands(self) -> Iterator[tuple[slice, Float[Tensor, "q r w"]]]:
        """Rows of the image and their logits, from the top to the bottom."""
        for rows in bands(self.frame.height, self.frame.width * len(self.canvas)):
            yield rows, self._read(rows)

    def at(self, pixels: Int[np.ndarray, "n 2"]) -> Float[np.ndarray, "q n"]:
        """Logits of single pixels (row, column)."""
        row = {y: self._read(slice(y, y + 1))[:, 0].cpu().numpy() for y in set(pixels[:, 0].tolist())}
        columns = [row[y][:, x] for y, x in pixels.tolist()]
        return np.stack(columns, 1) if columns else np.zeros((len(self.canvas), 0), np.float32)

    def masks(self, threshold: float) -> Iterator[tuple[Bool[np.ndarray, "h w"], float]]:
        """As `above`, one query after the other: at most `TOGETHER` pixels of masks, or one mask, are in memory here at
        a time."""
        step = max(1, TOGETHER // (self.frame.height * self.frame.width))
        for first in range(0, len(self.canvas), step):
            masks = replace(self, canvas=self.canvas[first : first + step]).above(threshold)
            while masks:
                yield masks.pop(0)

    def above(self, threshold: float) -> list[tuple[Bool[np.ndarray, "h w"], float]]:
        """Per query the mask of all pixels above a threshold, and the mean foreground probability over it; 0 for an
        empty one. The numbers of a query do not depend on the other queries."""
        size = (self.frame.height, self.frame.width)
        masks = [np.empty(size, bool) for _ in self.canvas]
        sums = torch.zeros((len(self.canvas), self.frame.height), dtype=torch.float64)  # by row: bands differ in height
        for rows, logits in self.bands():
            inside = logits > threshold
            for k, mask in enumerate(masks):
                mask[rows] = inside[k].cpu().numpy()
                if mask[rows].any():  # most bands are empty for most queries
                    sums[k, rows] = torch.where(inside[k], logits[k].sigmoid(), 0).sum(-1, dtype=torch.float64).cpu()
        totals = [row.sum().item() for row in sums]
        return [(mask, total / max(1, int(mask.sum()))) for mask, total in zip(masks, totals, strict=True)]

    def _read(self, rows: slice) -> Float[Tensor, "q r w"]:
        logits = self.frame.to_image_logits(self.canvas, rows)
        if self.moves is not None:
            self.moves.add_to(logits, rows.start)
        return logits
