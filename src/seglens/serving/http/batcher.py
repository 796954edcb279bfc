"""The queue in front of the model, which does one batch at a time: jobs that may run together run as one batch, and
long batches take turns with the others."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from seglens.core.interruption import MOST_STARTED, SLICE, GivenUpError, Turns, interruptible, rested
from seglens.serving.http.api_errors import ApiError, busy
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.workload import WorkRates, retry_after

MAX_LONG = MOST_STARTED // 2  # long batches that are under way at a time: the other threads are for short ones


@dataclass(frozen=True, eq=False)
class Job:
    """Work for the model: `run` turns items into as many results. Jobs with the same `key` may run as one, by the `run`
    of the first; None: alone. `check` raises what is wrong with one item, so that it cannot fail the other jobs of a
    batch. Only `MAX_LONG` `long` jobs are under way at a time, so that short ones have their turn soon. `given_up` is
    set when no client waits for the job any more: it is not begun, or ends at its next safe point.

    `kind` and `pixels` (of the pictures that are read, or the masks that are drawn) are for estimates of its time;
    `in_memory` of the pixels wait with it."""

    items: Sequence[Any]
    run: Callable[[Sequence[Any]], Sequence[Any]]
    key: Hashable = None
    check: Callable[[Any], None] = lambda item: None
    max_items: int | None = None  # of its batch, its own included; None: the limit of the batcher
    long: bool = False
    kind: str = ""
    pixels: int = 0
    in_memory: int = 0
    future: Future[list[Any]] = field(default_factory=Future)
    given_up: threading.Event = field(default_factory=threading.Event)

    @property
    def count(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class QueueLimits:
    """What may wait for the model: items, seconds of estimated work, and pixels of decoded pictures in memory. A job is
    accepted all the same while nothing else waits."""

    items: int
    seconds: float = math.inf
    pixels: int | float = math.inf


class Batcher:
    """A bounded queue and the threads that empty it, one of which uses the model at a time. While a batch runs, new
    jobs gather into the next one: no job waits for others to join it. At most `max_batch` items run as one; what may
    wait is in `limits`. A long batch pauses at its safe points while others have their turns (`Turns`)."""

    def __init__(
        self,
        limits: QueueLimits,
        max_batch: int,
        metrics: Metrics,
        seconds: float = SLICE,
        now: Callable[[], float] = monotonic,
    ):
        self.limits, self.max_batch, self.metrics, self._now = limits, max_batch, metrics, now
        self._turns, self._rates = Turns(seconds, now, metrics.busy.inc), WorkRates()
        self._waiting = deque[Job]()
        self._items, self._long = 0, 0  # items that wait; long batches under way
        self._open = True
        self._change = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"seglens-model-{k}", daemon=True) for k in range(MOST_STARTED)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def ready(self) -> bool:
        """Whether jobs are accepted and done."""
        return self._open and all(thread.is_alive() for thread in self._threads)

    def submit(self, job: Job) -> Future[list[Any]]:
        """Raises an ApiError (503) when too much waits, or when the server is about to stop."""
        with self._change:
            if not self.ready:
                raise busy("stopping", "the server is about to stop and takes no new work; ask another one", 5)
            if self._waiting:
                self._check_room(job)
            self._waiting.append(job)
            self._count(job.count)
            self._change.notify()
        return job.future

    def _check_room(self, job: Job) -> None:
        seconds = sum(map(self.seconds_of, self._waiting))
        pixels = sum(one.in_memory for one in self._waiting)
        if self._items + job.count > self.limits.items:
            raise _full(f"{self._items} questions wait already, of at most {self.limits.items}", seconds)
        if seconds + self.seconds_of(job) > self.limits.seconds:
            raise _full(
                f"work of about {seconds:.0f} seconds waits already, and for {self.limits.seconds:g} it may", seconds
            )
        if job.in_memory and pixels + job.in_memory > self.limits.pixels:
            raise _full(f"pictures of {pixels} pixels wait already, of at most {self.limits.pixels}", seconds)

    def close(self, seconds: float) -> bool:
        """Accept no more jobs, finish those that were accepted. False when that took longer than `seconds`."""
        with self._change:
            self._open = False
            self._change.notify_all()
        end = monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while self._wait():
            with self._turns.turn(), self._next() as jobs:  # as late as possible: more jobs may join the batch
                running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
                if running:
                    self.metrics.batch.observe(sum(job.count for job in running))
                    self._measured(running)

    def seconds_of(self, job: Job) -> float:
        """How long it will take, by what such jobs took."""
        return self._rates.seconds(job.kind, job.count, job.pixels)

    def _measured(self, jobs: Sequence[Job]) -> None:
        """Run them, and learn from it how long such work takes."""
        began, rest = self._now(), rested()
        self._run(jobs)
        spent = self._now() - began - (rested() - rest)
        with self._change:
            self._rates.measure(jobs[0].kind, sum(job.count for job in jobs), sum(job.pixels for job in jobs), spent)

    def _wait(self) -> bool:
        """Wait until a job may begin. False at the end."""
        with self._change:
            self._change.wait_for(lambda: self._first() is not None or not self._open)
            return self._first() is not None

    def _first(self) -> Job | None:
        """The job that has waited longest, of those that may begin."""
        return next((job for job in self._waiting if not job.long or self._long < MAX_LONG), None)

    @contextmanager
    def _next(self) -> Iterator[list[Job]]:
        """The job that has waited longest, with all that may run with it; empty when other threads took them all."""
        with self._change:
            first = self._first()
            jobs = [] if first is None else self._batch_of(first)
            long = int(first is not None and first.long)
            self._long += long
            self._count(-sum(job.count for job in jobs))
        try:
            yield jobs
        finally:
            with self._change:
                self._long -= long
                self._change.notify(long)  # another long job may begin

    def _batch_of(self, first: Job) -> list[Job]:
        self._waiting.remove(first)
        jobs, count, most = [first], first.count, min(self.max_batch, first.max_items or self.max_batch)
        if first.key is None:
            return jobs
        left = deque[Job]()
        for job in self._waiting:
            its_most = min(most, job.max_items or most)
            if job.key == first.key and count + job.count <= its_most:
                jobs.append(job)
                count, most = count + job.count, its_most
            else:
                left.append(job)
        self._waiting = left
        return jobs

    def _run(self, jobs: Sequence[Job]) -> None:
        """As one batch; if that fails, the jobs with a fault are found first, and the others run again without them."""
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
            own, results = results[: len(job.items)], results[len(job.items) :]
            job.future.set_result(own)

    def _run_good(self, jobs: Sequence[Job]) -> None:
        good = [job for job in jobs if not self._faulty(job)]
        if good and len(good) < len(jobs):
            self._run(good)
        else:  # no item has a fault: alone they may fit
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


def _full(what: str, seconds: float) -> ApiError:
    return busy("queue_full", f"{what}; try again", retry_after(seconds))


def _end_if_given_up(jobs: Sequence[Job]) -> None:
    if all(job.given_up.is_set() for job in jobs):
        raise GivenUpError("no client waits for it any more")
