from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Draw:
    source: int
    image: int
    questions: tuple[int, ...]


@dataclass(frozen=True)
class Epochs:
    images: int
    queries: int | None = None
    seed: int = 0

    def draw(self, number: int, count: Callable[[int, int], int]) -> Draw:
        epoch, at = divmod(number, self.images)
        order = torch.randperm(self.images, generator=torch.Generator().manual_seed(self.seed * 100_003 + epoch))
        image = int(order[at])
        return Draw(0, image, tuple(range(count(0, image))))


class Mixed:
    mixture: Any
    datasets: list
    prompt: str

    def sample(self, number: int) -> Any: ...
