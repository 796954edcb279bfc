"""Processes that read samples ahead of the training: pictures and masks are decoded on other cores, in the order in
which they are drawn."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from seglens.core.distributed import Ranks
from seglens.core.process_limits import usable_cores
from seglens.data.sampling import DrawnSample, Mixed
from seglens.training.checkpoint import RunError

MOST = 8  # processes of one training process, unless more are asked for
FORK = "fork"  # the index of the data is shared, not copied; the processes never use a GPU


def usual_readers() -> int:
    """One for each core that this process has, but one; none where it has no more than two, or where processes cannot
    share their memory (macOS, Windows): a thread reads there."""
    if FORK not in multiprocessing.get_all_start_methods() or torch.multiprocessing.get_start_method() != FORK:
        return 0
    cores = usable_cores() // Ranks.here().neighbours
    return min(MOST, cores - 1) if cores > 2 else 0


def draws_ahead(mixed: Mixed, numbers: Iterable[int], readers: int) -> Iterator[DrawnSample]:
    """The draws of `numbers`, in order, decoded by at least one process. What is bad in them is not counted yet.

    Raises what `mixed.draw` raises, and RunError when a process ends, as when there is no memory for it."""
    loader = DataLoader(
        _Draws(mixed),
        sampler=numbers,  # any iterable: it is read once, as far as needed
        batch_size=None,
        num_workers=readers,
        collate_fn=_as_it_is,
        worker_init_fn=_begin,
        multiprocessing_context=FORK,
    )
    return _checked(iter(loader))


class _Draws(Dataset[DrawnSample | Exception]):
    """Errors are values here: PyTorch would wrap them in its own report of many lines."""

    def __init__(self, mixed: Mixed):
        self.mixed = mixed

    def __getitem__(self, number: int) -> DrawnSample | Exception:
        try:
            return self.mixed.draw(number)
        except Exception as error:  # of any kind: it is raised where the sample is used
            return error


def _checked(drawn: Iterator[DrawnSample | Exception]) -> Iterator[DrawnSample]:
    while True:
        try:
            one = next(drawn)
        except StopIteration:
            return
        except RuntimeError as error:
            raise RunError(
                f"a process that reads the data ended ({' '.join(str(error).split())[:160]}); the same command goes on "
                "from the last checkpoint, with less memory in use by --readers 0"
            ) from error
        if isinstance(one, Exception):
            raise one
        yield one


def _as_it_is(drawn: Any) -> Any:
    return drawn


def _begin(worker: int) -> None:
    """Signals are for the training: it ends its processes, which also end when they find that it is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
