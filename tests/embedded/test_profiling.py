"""Time and memory of a piece of work."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from seglens.embedded.profiling import measured

MB = 1e6


def test_time_and_the_peak_of_memory() -> None:
    def work() -> int:
        tensor = torch.ones(25_000_000)  # 100 MB, given back before the end
        total = int(tensor[:1000].sum())
        del tensor
        time.sleep(0.05)
        return total

    done, cost = measured(work, torch.device("cpu"))
    assert done == 1000
    assert 0.05 <= cost.seconds < 60
    if sys.platform != "linux":
        pytest.skip("only Linux reports the peak")
    assert cost.peak is not None
    assert 95 * MB < cost.peak < 130 * MB
    _, less = measured(lambda: None, torch.device("cpu"))
    assert less.peak is not None
    assert less.peak < 10 * MB  # the earlier peak is forgotten
