"""Where the milliseconds of an answer went."""

from __future__ import annotations

import time

import torch


class LapClock:
    """Milliseconds of each lap, by name, after those that are known already."""

    def __init__(self, device: torch.device, **known: float):
        self.device, self.laps = device, known
        self._last = self._now()

    def lap(self, name: str) -> None:
        now = self._now()
        self.laps[name], self._last = self.laps.get(name, 0.0) + 1e3 * (now - self._last), now

    def go_on(self) -> None:
        """What passed since the last lap belongs to none."""
        self._last = self._now()

    def _now(self) -> float:
        if self.device.type != "cpu":  # a GPU is still at work when Python goes on
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()
