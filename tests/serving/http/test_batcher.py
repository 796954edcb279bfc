"""What waits together runs together; a fault is its owner's; the end loses nothing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from threading import Event
from time import monotonic, sleep
from typing import Any

import pytest

from seglens.serving.http.api_errors import ApiError
from seglens.serving.http.batcher import Batcher, Job, QueueLimits
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.workload import WorkRates, retry_after


class Model:
    """Doubles numbers, once it may; remembers what ran together."""

    def __init__(self) -> None:
        self.may, self.began = Event(), Event()
        self.batches = list[list[int]]()

    def run(self, items: Sequence[int]) -> list[int]:
        self.began.set()
        assert self.may.wait(10)
        self.batches.append(list(items))
        for item in items:
            self.check(item)
        return [2 * item for item in items]

    @staticmethod
    def check(item: int) -> None:
        if item < 0:
            raise ValueError(f"{item} is negative")

    def job(self, *items: int, key: str | None = "same", **more: Any) -> Job:
        return Job(items, self.run, key, self.check, **more)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    batcher = Batcher(QueueLimits(8), max_batch=4, metrics=Metrics())
    batcher.start()
    yield batcher
    batcher.close(10.0)


def begun(model: Model, batcher: Batcher) -> None:
    """Keep the thread at a first job, so that others gather."""
    batcher.submit(model.job(0, key=None))
    assert model.began.wait(10)


def test_jobs_of_one_key_gather_while_the_model_works(model: Model, batcher: Batcher) -> None:
    begun(model, batcher)
    jobs = [model.job(1, 2), model.job(9, key="other"), model.job(3), model.job(4, 5), model.job(6)]
    futures = [batcher.submit(job) for job in jobs]
    model.may.set()
    assert [future.result(10) for future in futures] == [[2, 4], [18], [6], [8, 10], [12]]
    assert model.batches == [[0], [1, 2, 3, 6], [9], [4, 5]]  # at most four; what waits longest goes first


def test_a_fault_fails_only_its_own_job(model: Model, batcher: Batcher) -> None:
    begun(model, batcher)
    futures = [batcher.submit(model.job(*items)) for items in ((1,), (-1,), (2,))]
    model.may.set()
    assert futures[0].result(10) == [2]
    assert futures[2].result(10) == [4]
    with pytest.raises(ValueError, match="-1 is negative"):
        futures[1].result(10)
    assert model.batches[-1] == [1, 2]  # the good ones ran together again


def test_a_batch_that_fails_without_a_faulty_item_runs_job_by_job(batcher: Batcher) -> None:
    held, may = Event(), Event()

    def narrow(items: Sequence[int]) -> list[int]:
        held.set()
        assert may.wait(10)
        if len(items) > 1:
            raise MemoryError("too many at once")
        return list(items)

    futures = [batcher.submit(Job([n], narrow, "key" if n else None)) for n in range(3)]
    assert held.wait(10)
    may.set()
    assert [future.result(10) for future in futures] == [[0], [1], [2]]


def test_a_full_queue_refuses(model: Model, batcher: Batcher) -> None:
    begun(model, batcher)
    futures = [batcher.submit(model.job(1, 1, 1, 1)) for _ in range(2)]
    with pytest.raises(ApiError, match="8 questions wait already, of at most 8") as refused:
        batcher.submit(model.job(1))
    assert refused.value.status_code == 503
    assert refused.value.headers["Retry-After"] == "1"
    model.may.set()
    assert [future.result(10) for future in futures] == [[2, 2, 2, 2]] * 2


def test_a_job_that_was_given_up_is_not_begun(model: Model, batcher: Batcher) -> None:
    begun(model, batcher)
    left, stays = batcher.submit(model.job(1)), batcher.submit(model.job(2))
    assert left.cancel()
    model.may.set()
    assert stays.result(10) == [4]
    assert model.batches == [[0], [2]]


def test_closing_finishes_the_accepted_jobs(model: Model, batcher: Batcher) -> None:
    begun(model, batcher)
    futures = [batcher.submit(model.job(n, key=None)) for n in range(3)]
    assert not batcher.close(0.01)  # not in this time
    with pytest.raises(ApiError, match="about to stop"):
        batcher.submit(model.job(1))
    model.may.set()
    assert batcher.close(10.0)
    assert [future.result(0) for future in futures] == [[0], [2], [4]]
    assert not batcher.ready


def test_a_batch_has_no_more_items_than_each_of_its_jobs_allows(model: Model, batcher: Batcher) -> None:
    begun(model, batcher)
    jobs = [model.job(1), model.job(2, max_items=2), model.job(3), model.job(4, max_items=1)]
    futures = [batcher.submit(job) for job in jobs]
    model.may.set()
    assert [future.result(10) for future in futures] == [[2], [4], [6], [8]]
    assert model.batches == [[0], [1, 2], [3], [4]]


def test_pictures_that_wait_take_bounded_memory(model: Model) -> None:
    batcher = Batcher(QueueLimits(8, pixels=100), max_batch=4, metrics=Metrics())
    batcher.start()
    begun(model, batcher)
    batcher.submit(model.job(1, in_memory=500))  # while nothing waits, anything is accepted
    with pytest.raises(ApiError) as refused:
        batcher.submit(model.job(2, in_memory=1))
    assert (refused.value.status_code, refused.value.code) == (503, "queue_full")
    assert refused.value.message.startswith("pictures of 500 pixels wait already, of at most 100")
    batcher.submit(model.job(3))  # a question holds no picture
    model.may.set()
    assert batcher.close(10.0)


def test_work_is_refused_by_the_time_that_such_work_took(model: Model) -> None:
    """A clock that goes on by 2 seconds at each look: every batch takes at least that."""
    clock = itertools.count(0, 2.0)
    batcher = Batcher(QueueLimits(100, seconds=10.0), max_batch=1, metrics=Metrics(), now=lambda: next(clock))
    batcher.start()
    model.may.set()
    assert batcher.submit(model.job(1, kind="open", key=None)).result(10) == [2]
    deadline = monotonic() + 10
    while not batcher.seconds_of(model.job(1, kind="open")) and monotonic() < deadline:
        sleep(0.01)  # it is measured after the result is given
    assert batcher.seconds_of(model.job(1, kind="open")) >= 2.0
    assert batcher.seconds_of(model.job(1, kind="unknown")) == 0.0
    assert batcher.seconds_of(model.job(1, kind="unknown", pixels=10**9)) == pytest.approx(10.0)
    model.may.clear()
    model.began.clear()
    begun(model, batcher)
    batcher.submit(model.job(*range(6), kind="open", key=None))
    with pytest.raises(ApiError) as refused:
        batcher.submit(model.job(2, kind="open", key=None))
    assert refused.value.code == "queue_full"
    waits = re.search(r"work of about (\d+) seconds waits already, and for 10 it may", refused.value.message)
    assert waits is not None
    assert refused.value.headers is not None
    assert int(refused.value.headers["Retry-After"]) == pytest.approx(int(waits[1]) / 2, abs=1)
    model.may.set()
    assert batcher.close(10.0)


def test_estimates_follow_what_was_measured() -> None:
    rates = WorkRates()
    rates.measure("open", 4, 0, 2.0)
    assert rates.seconds("open", 3, 0) == pytest.approx(1.5)
    for _ in range(50):
        rates.measure("open", 1, 10**8, 2.0)  # a second of it for the pixels
    assert rates.seconds("open", 1, 0) == pytest.approx(1.0, abs=0.01)
    assert rates.seconds("open", 1, 10**8) == pytest.approx(2.0, abs=0.01)
    assert [retry_after(seconds) for seconds in (0.0, 1.5, 9.0)] == [1, 1, 5]
