"""The processes that `torchrun` or `accelerate launch` started for one task."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

TIMEOUT = timedelta(days=1)  # for the slowest: the ranks of an evaluation meet once, at the end
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Ranks:
    """This process among `world`. Item i belongs to rank i % world: no item is padded, repeated or left out."""

    rank: int = 0
    world: int = 1
    local: int | None = None  # number on this machine; None where no launcher set it

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(
                f"got RANK={self.rank} and WORLD_SIZE={self.world}; a rank is 0 to WORLD_SIZE - 1: start the processes "
                "with torchrun or accelerate launch, which set both"
            )

    @classmethod
    def here(cls) -> Ranks:
        """The rank of this process in the environment; rank 0 of 1 when the environment names none.

        Raises ValueError when the environment's numbers make no sense."""
        try:
            rank, world, local = (os.environ.get(name) for name in VARIABLES)
            return cls(int(rank or 0), int(world or 1), None if local is None else int(local))
        except ValueError as error:
            raise ValueError(f"the environment's {', '.join(VARIABLES)} name no process: {error}") from error

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def neighbours(self) -> int:
        """Processes of this launch on this machine, this one included."""
        return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)

    @property
    def launch(self) -> str:
        """A name that all processes of this launch share; "" for a single process."""
        if self.world == 1:
            return ""
        named = [os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
        return " ".join([f"{self.world} processes", *filter(None, named)])

    def share(self, n: int) -> range:
        """The items of 0..n-1 that belong to this process."""
        return range(self.rank, n, self.world)

    def device(self, name: str) -> str:
        """A GPU for every process of this machine: "cuda" becomes "cuda:1" on the second."""
        return name if self.local is None or name not in ("cuda", "xpu") else f"{name}:{self.local}"

    def gather(self, mine: Any) -> list[Any] | None:
        """The values of all ranks, in the order of ranks, on the first; None on the others."""
        if self.world == 1:
            return [mine]
        from torch.distributed import gather_object

        values = [None] * self.world if self.first else None
        gather_object(mine, values)
        return values


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks of this launch, able to `gather` inside the block.

    Raises ValueError when the environment's numbers make no sense."""
    ranks = Ranks.here()
    if ranks.world == 1:
        yield ranks
        return
    from torch import distributed

    # gloo, because counts are gathered, not tensors of a GPU. No rank waits for one that failed: the launcher stops
    # all ranks when one fails.
    distributed.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()
