"""The model is one piece of work's at a time. What waits for it and may run together runs together; what is long is
done in turns with the rest."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from seglens.core.interruption import ABREAST, SLICE, GivenUpError, Turns, interruptible
from seglens.serving.http.api_errors import busy
from seglens.serving.http.metrics import Metrics

LONG = ABREAST // 2  # batches that are begun at a time: room is left for what is short


@dataclass(frozen=True, eq=False)
class Job:
    """Work for the model: `run` turns items into as many results. Jobs of one `key` may run as one, by the `run` of the
    first; None: alone. `check` raises what is wrong with one item, so that it cannot fail its neighbours. Of what is
    `long` only so much is begun at a time, so that what is short has its turn soon. Once `given_up` is set nobody waits
    for it: it is not begun, or ends at its next safe point."""

    items: Sequence[Any]
    run: Callable[[Sequence[Any]], Sequence[Any]]
    key: Hashable = None
    check: Callable[[Any], None] = lambda item: None
    most: int | None = None  # items that may run with it, its own among them; None: as many as the batcher takes
    long: bool = False
    future: Future[list[Any]] = field(default_factory=Future)
    given_up: threading.Event = field(default_factory=threading.Event)


class Batcher:
    """A bounded queue and the threads that empty it, one of which has the model at a time. While a batch runs, what
    comes in gathers into the next: nobody waits for company. At most `together` items run as one; at most `most` items
    wait. A batch that takes long rests at its safe points while others have their turns (`Turns`)."""

    def __init__(
        self,
        most: int,
        together: int,
        metrics: Metrics,
        seconds: float = SLICE,
        now: Callable[[], float] = monotonic,
    ):
        self.most, self.together, self.metrics = most, together, metrics
        self._turns = Turns(seconds, now, metrics.busy.inc)
        self._waiting = deque[Job]()
        self._items, self._long = 0, 0  # that wait; long batches that are begun
        self._open = True
        self._change = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"seglens-model-{k}", daemon=True) for k in range(ABREAST)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def ready(self) -> bool:
        """Whether work is taken, and done."""
        return self._open and all(thread.is_alive() for thread in self._threads)

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
            self._change.notify_all()
        end = monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while self._wait():
            with self._turns.turn(), self._next() as jobs:  # taken as late as can be: company gathers until then
                taken = [job for job in jobs if job.future.set_running_or_notify_cancel()]
                if taken:
                    self.metrics.batch.observe(sum(len(job.items) for job in taken))
                    self._run(taken)

    def _wait(self) -> bool:
        """Until there is something to begin. False: the end."""
        with self._change:
            self._change.wait_for(lambda: self._first() is not None or not self._open)
            return self._first() is not None

    def _first(self) -> Job | None:
        """The job that waits longest, of those that may be begun."""
        return next((job for job in self._waiting if not job.long or self._long < LONG), None)

    @contextmanager
    def _next(self) -> Iterator[list[Job]]:
        """The job that waits longest, with all that may run with it; nothing when other threads have taken it all."""
        with self._change:
            first = self._first()
            jobs = [] if first is None else self._company(first)
            long = int(first is not None and first.long)
            self._long += long
            self._count(-sum(len(job.items) for job in jobs))
        try:
            yield jobs
        finally:
            with self._change:
                self._long -= long
                self._change.notify(long)  # another long one may begin

    def _company(self, first: Job) -> list[Job]:
        self._waiting.remove(first)
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
