"""One of several things that a query means."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool

from seglens.core.connected_components import box_of


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to; the array itself stays as it is."""
    view = array.view()
    view.flags.writeable = False
    return view


class Instance:
    """One of several things that a query means. It stores the part of its mask within its box: a picture full of
    things costs about as much as one mask."""

    __slots__ = ("box", "cut", "score", "size")

    def __init__(
        self,
        mask: Bool[np.ndarray, "h w"],
        score: float,
        corner: tuple[int, int] = (0, 0),
        size: tuple[int, int] | None = None,
    ):
        """`mask` is of the whole image, or of a part of it whose first pixel is `corner` (x, y) of an image of `size`
        (height, width)."""
        box = box_of(mask)
        assert box is not None, "an instance has at least one pixel"
        x0, y0, x1, y1 = box
        left, top = corner
        self.box = (left + x0, top + y0, left + x1, top + y1)  # x0, y0, x1, y1 of the mask (x1, y1 exclusive)
        self.cut: Bool[np.ndarray, "ch cw"] = read_only(mask[y0:y1, x0:x1])
        self.size: tuple[int, int] = size or (mask.shape[0], mask.shape[1])
        self.score = score  # mean foreground probability over the mask, in [0, 1]

    def __setstate__(self, state: tuple[None, dict[str, Any]]) -> None:
        """From a pickle or a copy: the part of the mask is read-only as in the first one."""
        for name, value in state[1].items():
            setattr(self, name, read_only(value) if name == "cut" else value)

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """At the image's size, computed at each access."""
        x0, y0, x1, y1 = self.box
        whole = np.zeros(self.size, bool)
        whole[y0:y1, x0:x1] = self.cut
        return read_only(whole)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.cut))
