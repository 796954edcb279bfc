"""One thread owns the model. What waits for it and may run together runs together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

from seglens.interruption import GivenUpError, interruptible
from seglens.server.metrics import Metrics
from seglens.server.refusals import busy


@dataclass(frozen=True, eq=False)
class Job:
    """Work for the model: `run` turns items into as many results. Jobs of one `key` may run as one, by the `run` of the
    first; None: alone. `check` raises what is wrong with one item, so that it cannot fail its neighbours. Once
    `given_up` is set nobody waits for it: it is not begun, or ends at its next safe point."""

    items: Sequence[Any]
    run: Callable[[Sequence[Any]], Sequence[Any]]
    key: Hashable = None
    check: Callable[[Any], None] = lambda item: None
    most: int | None = None  # items that may run with it, its own among them; None: as many as the batcher takes
    future: Future[list[Any]] = field(default_factory=Future)
    given_up: threading.Event = field(default_factory=threading.Event)


class Batcher:
    """A bounded queue and the thread that empties it. While a batch runs, what comes in gathers into the next: nobody
    waits for company. At most `together` items run as one; at most `most` items wait."""

    def __init__(self, most: int, together: int, metrics: Metrics):
        self.most, self.together, self.metrics = most, together, metrics
        self._waiting = deque[Job]()
        self._items = 0
        self._open = True
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="seglens-model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether work is taken, and done."""
        return self._open and self._thread.is_alive()

    def submit(self, job: Job) -> Future[list[Any]]:
        """Raises a Refusal (503) when too much waits, or when it takes no more work."""
        with self._change:
            if not self.ready:
                raise busy("stopping", "the server is about to stop and takes no new work; ask another one", 5)
            if self._items and self._items + len(job.items) > self.most:
                raise busy("queue_full", f"{self._items} questions wait already, of at most {self.most}; try again")
            self._waiting.append(job)
            self._count(len(job.items))
            self._change.notify()
        return job.future

    def close(self, seconds: float) -> bool:
        """Take no more work, finish what was taken. False when that took longer than `seconds`."""
        with self._change:
            self._open = False
            self._change.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while jobs := self._next():
            taken = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if taken:
                self.metrics.batch.observe(sum(len(job.items) for job in taken))
                started = perf_counter()
                self._run(taken)
                self.metrics.busy.inc(perf_counter() - started)

    def _next(self) -> list[Job]:
        """The job that waits longest, with all that may run with it. Nothing: the end."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or not self._open)
            if not self._waiting:
                return []
            jobs = self._company(self._waiting.popleft())
            self._count(-sum(len(job.items) for job in jobs))
            return jobs

    def _company(self, first: Job) -> list[Job]:
        jobs, room = [first], min(self.together, first.most or self.together) - len(first.items)
        if first.key is None:
            return jobs
        left = deque[Job]()
        for job in self._waiting:
            fits = job.key == first.key and len(job.items) <= room
            (jobs if fits else left).append(job)
            room -= len(job.items) if fits else 0
        self._waiting = left
        return jobs

    def _run(self, jobs: Sequence[Job]) -> None:
        """Together; if that fails, each job's own fault is found first, and then nobody pays for another's."""
        try:
            with interruptible(partial(_end_if_given_up, jobs)):
                results = list(jobs[0].run([item for job in jobs for item in job.items]))
        except Exception as error:
            if len(jobs) == 1 or isinstance(error, GivenUpError):
                for job in jobs:
                    job.future.set_exception(error)
            else:
                self._run_good(jobs)
            return
        for job in jobs:
            mine, results = results[: len(job.items)], results[len(job.items) :]
            job.future.set_result(mine)

    def _run_good(self, jobs: Sequence[Job]) -> None:
        good = [job for job in jobs if not self._faulty(job)]
        if good and len(good) < len(jobs):
            self._run(good)
        else:  # it was no item's fault: alone they may fit
            for job in good:
                self._run([job])

    @staticmethod
    def _faulty(job: Job) -> bool:
        try:
            for item in job.items:
                job.check(item)
        except Exception as error:
            job.future.set_exception(error)
            return True
        return False

    def _count(self, more: int) -> None:
        self._items += more
        self.metrics.waiting.set(self._items)


def _end_if_given_up(jobs: Sequence[Job]) -> None:
    if all(job.given_up.is_set() for job in jobs):
        raise GivenUpError("nobody waits for it any more")
