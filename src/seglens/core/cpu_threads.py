"""Threads of a program that computes on the CPU: how many, and how they wait for each other.

PyTorch's default is a thread for each core, and threads that wait in a loop. Beside a busy process these loops take the
time that the work needs. The command line and its servers choose other values, as far as the user has chosen none; a
program that uses SegLens as a library keeps its own. Light to import: `prepare_threads` is called before PyTorch is."""

from __future__ import annotations

import os

from seglens.core.process_limits import affinity_cores, usable_cores

COUNT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # variables by which a user chooses the number of threads
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # the same for how threads wait
# A smaller share of a model is computed faster than a second thread is woken: measured by benchmarks/threads.py.
WEIGHTS_PER_THREAD = 40_000_000

OURS = "SEGLENS_OMP_NUM_THREADS"  # the value of COUNT[0] that `prepare_threads` set: the processes it starts read both


def prepare_threads() -> None:
    """To be called before PyTorch is loaded: its runtime of threads (OpenMP) reads these variables only then.

    Threads that wait do so asleep, and there are no more of them than a container's quota allows."""
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    cores = usable_cores()
    if not chosen_by_user() and cores < affinity_cores():
        os.environ[COUNT[0]] = os.environ[OURS] = str(cores)


def chosen_by_user() -> bool:
    """Whether the environment states the number of threads, other than by what `prepare_threads` wrote there in this
    process or in the one that started it."""
    chosen = [name for name in COUNT if name in os.environ]
    return bool(chosen) and (chosen != [COUNT[0]] or os.environ[COUNT[0]] != os.environ.get(OURS))


def threads_for(weights: int) -> int:
    """The number of threads for a model of that many weights: all cores for a large one, one for a small one."""
    return max(1, min(usable_cores(), weights // WEIGHTS_PER_THREAD))


def use_threads_for(weights: int) -> None:
    """Compute on `threads_for` threads from now on, unless the user has chosen their number. To be called before the
    threads are started that will call the model."""
    import torch

    if not chosen_by_user():
        torch.set_num_threads(threads_for(weights))


def room_for_two() -> bool:
    """Whether two models may compute at a time: with their threads there are no more than cores, or those that wait
    sleep, so that they are not in the way."""
    import torch

    cores = usable_cores()
    asleep = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    return 2 * torch.get_num_threads() <= cores or (asleep and cores > 1)
