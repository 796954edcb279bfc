"""What waits together runs together; a fault is its owner's; the end loses nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event

import pytest

from seglens.serving.http.api_errors import ApiError
from seglens.serving.http.batcher import Batcher, Job, QueueLimits
from seglens.serving.http.metrics import Metrics


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

    def job(self, *items: int, key: str | None = "same") -> Job:
        return Job(items, self.run, key, self.check)


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
