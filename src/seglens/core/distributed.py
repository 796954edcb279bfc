"""One evaluation shared by several processes, as `torchrun` or `accelerate launch` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(days=1)  # for the slowest: the ranks meet once, at the end


@dataclass(frozen=True)
class Ranks:
    """This process among `world`. Item i belongs to rank i % world: no item is padded, doubled or left out."""

    rank: int = 0
    world: int = 1
    local: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(
                f"got RANK={self.rank} and WORLD_SIZE={self.world}; a rank is 0 to WORLD_SIZE - 1: start the processes "
                "with torchrun or accelerate launch, which set both"
            )

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def share(self, n: int) -> range:
        """The items of 0..n-1 that are this process's."""
        return range(self.rank, n, self.world)

    def device(self, name: str) -> str:
        """A GPU of its own for every process of this machine: "cuda" becomes "cuda:1" on the second."""
        return f"{name}:{self.local}" if self.world > 1 and name in ("cuda", "xpu") else name

    def gather(self, mine: Any) -> list[Any] | None:
        """What every rank gives, in the order of ranks, on the first; None on the others."""
        if self.world == 1:
            return [mine]
        from torch.distributed import gather_object

        given = [None] * self.world if self.first else None
        gather_object(mine, given)
        return given


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that the environment names (one, when it names none), able to `gather` inside the block.

    Raises ValueError when the environment's numbers make no sense."""
    ranks = _from_environment()
    if ranks.world == 1:
        yield ranks
        return
    from torch import distributed

    # gloo, because what is gathered is counts, not tensors of a GPU. Nothing is held back for an error: the launcher
    # stops every rank when one fails.
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()


def _from_environment() -> Ranks:
    try:
        return Ranks(*(int(os.environ.get(name, "1" if name == "WORLD_SIZE" else "0")) for name in VARIABLES))
    except ValueError as error:
        raise ValueError(f"the environment's {', '.join(VARIABLES)} name no process: {error}") from error


VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
