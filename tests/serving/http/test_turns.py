"""Long work on the model lets others in: a short request is answered before a long one ends, with the same answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from seglens.backbones import GenerationOptions, load_backbone
from seglens.core.interruption import Turns, interruptible, rested, safe_point
from seglens.core.schema import Click
from seglens.data.world import WorldData
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter
from seglens.serving.http.batcher import MAX_LONG, Batcher, Job, QueueLimits
from seglens.serving.http.metrics import Metrics
from seglens.serving.limits import Limits
from seglens.serving.tools.tool_images import ImageReader
from seglens.serving.tools.tool_service import ToolService
from tiny import KINDS

WAIT = 60.0  # seconds after which a test has failed


class Clock:
    """Goes on when the test sets it."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def hands() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


# ---------------------------------------------------------------- turns


def test_work_pauses_when_its_time_is_over_and_other_work_waits(hands: ThreadPoolExecutor) -> None:
    clock, order, worked = Clock(), list[str](), list[float]()
    turns, began, go = Turns(5.0, clock, worked.append), threading.Event(), threading.Event()

    def long() -> float:
        with turns.turn():
            began.set()
            clock.time = 100.0
            safe_point()  # no other work waits
            assert go.wait(WAIT)
            order.append("early")
            turns._since = clock.time
            safe_point()  # others wait, and its time is not over
            order.append("before")
            clock.time += 5.0
            safe_point()
            order.append("after")
        return rested()

    def short() -> None:
        with turns.turn():
            order.append("short")
            clock.time += 3.0

    first = hands.submit(long)
    assert began.wait(WAIT)
    others = [hands.submit(short) for _ in range(2)]
    until(lambda: len(turns._queue) == 2)
    go.set()
    assert first.result(WAIT) == 6.0
    for other in others:
        other.result(WAIT)
    assert order == ["early", "before", "short", "short", "after"]
    assert sum(worked) == pytest.approx(5.0 + 3.0 + 3.0)


def test_nested_checks_are_all_called() -> None:
    calls = list[str]()
    with interruptible(lambda: calls.append("outer")):
        with interruptible(lambda: calls.append("inner")):
            safe_point()
        safe_point()
    safe_point()
    assert calls == ["outer", "inner", "outer"]


def test_work_that_fails_releases_the_model() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="broken"), turns.turn():
        raise ValueError("broken")
    with turns.turn():
        pass


# ---------------------------------------------------------------- the queue of the server


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    batcher = Batcher(QueueLimits(32), max_batch=4, metrics=Metrics(), seconds=0.0)
    batcher.start()
    yield batcher
    assert batcher.close(WAIT)


class Long:
    """Work that goes on until the test ends it, with safe points."""

    def __init__(self) -> None:
        self.began, self.enough = threading.Event(), threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.began.set()
        until(self._is_enough)
        return [2 * item for item in items]

    def _is_enough(self) -> bool:
        safe_point()
        return self.enough.is_set()


def test_a_short_job_is_answered_before_a_long_one_ends(batcher: Batcher) -> None:
    work = Long()
    long = batcher.submit(Job([1], work, long=True))
    assert work.began.wait(WAIT)
    assert batcher.submit(Job([2], list)).result(WAIT) == [2]
    assert not long.done()
    work.enough.set()
    assert long.result(WAIT) == [2]


def test_a_short_job_runs_beside_many_long_ones(batcher: Batcher) -> None:
    works = [Long() for _ in range(MAX_LONG + 2)]
    long = [batcher.submit(Job([k], work, long=True)) for k, work in enumerate(works)]
    until(lambda: sum(work.began.is_set() for work in works) == MAX_LONG)
    assert batcher.submit(Job([7], list)).result(WAIT) == [7]
    assert sum(work.began.is_set() for work in works) == MAX_LONG  # each holds memory
    for work in works:
        work.enough.set()
    assert [one.result(WAIT) for one in long] == [[2 * k] for k in range(len(works))]


# ---------------------------------------------------------------- real work, cut to pieces


def alternating(hands: ThreadPoolExecutor, works: Sequence[Callable[[], object]]) -> list[object]:
    """What all give when each of them rests at every safe point while another is not done."""
    turns, ready = Turns(0.0), threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        ready.wait(WAIT)
        with turns.turn():
            until(lambda: len(turns._queue) > 0 or len(done) > 0)
            try:
                return work()
            finally:
                done.append(1)

    done = list[int]()
    futures: list[Future[object]] = [hands.submit(run, work) for work in works]
    return [future.result(WAIT) for future in futures]


@pytest.mark.parametrize("images", [1, 2])
def test_answers_in_words_that_alternate_token_by_token(family: Path, hands: ThreadPoolExecutor, images: int) -> None:
    """Of every kind of MLLM: none may keep in itself, from one token to the next, what another answer changes."""
    backbone = load_backbone(family, **{**KINDS[family.name].options, "dtype": torch.float32}, as_is=True)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((50, 90, 3), (120, 40, 3))]
    questions = ["what is in the picture ?", "where is it and what is it there for , do you think ?"]
    words = [
        lambda k=k: backbone.generate_text(pictures[: 1 + (images - 1) * k], questions[k], GenerationOptions(9))
        for k in range(2)
    ]
    alone = [one() for one in words]
    assert alternating(hands, words) == alone


def test_masks_clicks_and_words_that_alternate(segmenter: Segmenter, hands: ThreadPoolExecutor) -> None:
    """Bit for bit what each gives alone."""
    scenes = [sample.image for sample in WorldData(n=2, seed=3)]
    service = ToolService(segmenter, ImageReader(Limits()))
    opened = [segmenter.open(scene) for scene in scenes]
    clicks = [Click(x=10 + 20 * k, y=200 - 15 * k, label=k % 2) for k in range(8)]

    def bits(prediction: Prediction) -> tuple[object, ...]:
        masks = (prediction.mask, *(one.mask for one in prediction.instances))
        return prediction.score, prediction.presence, *(mask.tobytes() for mask in masks)

    works: list[Callable[[], object]] = [
        lambda: bits(opened[0].refine(opened[0].segment("the largest thing"), clicks)),
        lambda: [bits(one) for one in opened[1].segment(["each thing", "the smallest thing"], True)],
        lambda: segmenter.backbone.generate(scenes[0], "what is in the picture?"),
        lambda: bits(opened[0].segment("the leftmost thing", True)),
    ]
    alone = [work() for work in works]
    assert alternating(hands, works) == alone
    assert service.ask(scenes[0], "what is in the picture?").text == alone[2]


def test_a_tool_service_answers_another_client_in_between(
    segmenter: Segmenter, hands: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question of many tokens, and one for a mask that comes meanwhile."""
    scene = WorldData(n=1, seed=3)[0].image
    service, began, done = ToolService(segmenter, ImageReader(Limits())), threading.Event(), threading.Event()
    service._turns = Turns(0.0)
    name = service.images.add(scene)

    def generate(*args: object) -> str:
        began.set()

        def answered() -> bool:
            safe_point()
            return done.is_set()

        until(answered)
        return "words"

    monkeypatch.setattr(segmenter.backbone, "generate", generate, raising=False)
    long = hands.submit(service.ask, name, "what is in the picture?")
    assert began.wait(WAIT)
    assert hands.submit(service.segment, name, ["the largest thing"]).result(WAIT).answer.answers
    assert not long.done()
    done.set()
    assert long.result(WAIT).text == "words"
