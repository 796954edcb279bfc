"""How long the work will take that waits for the model: estimated from what was measured on this machine."""

from __future__ import annotations

import math

SECONDS_PER_PIXEL = 1e-8  # to fit a picture to the canvas, or to draw a mask: benchmarks/large.py measured .8e-8
NEW = 0.2  # weight of the newest measurement; earlier ones fade


class WorkRates:
    """Seconds per item of each kind of work, besides those for its pixels; 0 until the first was measured. Not safe for
    several threads at a time: the batcher calls it under its lock."""

    def __init__(self) -> None:
        self._rates = dict[str, float]()

    def seconds(self, kind: str, count: int, pixels: int) -> float:
        """Of so many items, which are about so many pixels in all."""
        return count * self._rates.get(kind, 0.0) + pixels * SECONDS_PER_PIXEL

    def measure(self, kind: str, count: int, pixels: int, seconds: float) -> None:
        """Work that ran as one took that long."""
        rate = max(0.0, seconds - pixels * SECONDS_PER_PIXEL) / max(1, count)
        before = self._rates.get(kind, rate)
        self._rates[kind] = before + NEW * (rate - before)


def retry_after(waiting: float) -> int:
    """Whole seconds after which a client may try again: half of the work that waits is done by then."""
    return max(1, math.ceil(waiting / 2))
