"""Random readouts of a tuned MLLM, for tests of the arithmetic of the methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from seglens.core.tuning_types import TunedReadout
from seglens.core.types import Truth

B, Q, WIDTH, GRID = 2, 3, 24, (3, 3)


@dataclass
class FakeReader:
    """An MLLM of which only the widths are used."""

    adapter: nn.Module = field(default_factory=lambda: nn.Linear(2, 2))
    width: int = WIDTH
    patch_width: int = 8
    grid: tuple[int, int] = GRID
    shuffle: int = 1

    def open(self, image: np.ndarray) -> Any: ...
    def read(self, image: Any, questions: Any) -> Any: ...
    def teach(self, shown: Any) -> Any: ...
    def recompute(self, on: bool) -> None: ...
    def pixels(self, image: np.ndarray) -> Any: ...
    def frame(self, image: np.ndarray) -> Any: ...
    def words(self, query: str, answer: str | None, present: bool) -> Any: ...
    def conversation(self, request: str, opening: str, items: Any) -> Any: ...


def readout(tokens: int = 1, each: bool = False, seed: int = 0) -> TunedReadout:
    """Of `tokens` per answer; the image's rows are the questions' own if `each`."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return TunedReadout(
        patches=draw(B, 9, 8),
        given=draw(B, 9, WIDTH),
        refilled=None,
        image=draw(B, Q if each else 1, 9, WIDTH),
        segment=draw(B, Q, tokens, WIDTH),
        grid=GRID,
        shuffle=1,
        choice=draw(B, Q, 40),
        text_loss=draw(B, Q).abs(),
    )


def truth(present: list[list[int]], valid: list[list[int]], spoken: list[list[int]], side: int = 32) -> Truth:
    flags = [torch.tensor(rows).bool() for rows in (present, valid, spoken)]
    masks = torch.rand(B, Q, side, side, generator=torch.Generator().manual_seed(1)).round()
    tokens = torch.arange(1, 1 + B * Q).reshape(B, Q)
    return Truth(masks * flags[0][..., None, None], torch.zeros(B, Q, *GRID), *flags, tokens)


# a question of each kind: two are there, one is not; one is there, one is answered in words, one was never asked
SOME = truth(present=[[1, 1, 0], [1, 0, 0]], valid=[[1, 1, 1], [1, 0, 0]], spoken=[[0, 0, 0], [0, 1, 0]])


def taught(absent: str) -> list[tuple[int, int]]:
    """Whose masks of `SOME` are compared."""
    return [(0, 0), (0, 1), (1, 0)] + ([(0, 2)] if absent == "empty" else [])
