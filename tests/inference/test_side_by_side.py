"""Both encoders compute an image at the same time, with the results of one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread
from typing import Any

import numpy as np
import pytest
import torch

from seglens.core import cpu_threads
from seglens.core.types import Embedding, Sample
from seglens.inference import side_by_side as module
from seglens.inference.segmenter import Segmenter
from seglens.inference.side_by_side import side_by_side

CPU = torch.device("cpu")
EMBEDDING = Embedding(torch.zeros(1, 2, 3, 3), (torch.zeros(1, 2, 6, 6),))


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "room_for_two", lambda: True)


def test_masks_are_the_same_bit_for_bit(monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter, scene: Sample) -> None:
    queries = [target.query for target in scene.targets]
    beside = segmenter.open(scene.image)
    monkeypatch.setattr(module, "room_for_two", lambda: False)
    in_turn = segmenter.open(scene.image)
    assert beside.seen.frame == in_turn.seen.frame == segmenter.backbone.canvas.frame(scene.image)
    assert beside.embedding is not None
    assert in_turn.embedding is not None
    assert torch.equal(beside.embedding.coarse, in_turn.embedding.coarse)
    for one, other in zip(beside.segment(queries), in_turn.segment(queries), strict=True):
        assert one.canvas_logits is not None
        assert other.canvas_logits is not None
        assert np.array_equal(one.canvas_logits, other.canvas_logits)
        assert np.array_equal(one.mask, other.mask)


def test_both_compute_at_the_same_time() -> None:
    begun, names = (Event(), Event()), list[str]()

    def part(own: int, result: Any) -> Any:
        begun[own].set()
        assert begun[1 - own].wait(60)  # for ever, if the other began later
        names.append(current_thread().name)
        return result

    assert side_by_side(lambda: part(0, "read"), lambda: part(1, EMBEDDING), CPU) == ("read", EMBEDDING)
    assert {name.startswith("seglens-encoder") for name in names} == {True, False}


def test_one_after_the_other_in_one_thread_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "room_for_two", lambda: False)
    assert _threads() == {current_thread()}


def test_one_thread_under_autocast() -> None:
    """Another thread would compute in other precision."""
    assert len(_threads()) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert _threads() == {current_thread()}


def _threads() -> set[Any]:
    threads = list[Any]()

    def embed() -> Embedding:
        threads.append(current_thread())
        return EMBEDDING

    side_by_side(lambda: threads.append(current_thread()), embed, CPU)
    return set(threads)


def test_errors_are_raised_when_both_have_ended() -> None:
    ended = list[str]()

    def fail(name: str) -> Any:
        ended.append(name)
        raise ValueError(name)

    def work(name: str, result: Any) -> Any:
        ended.append(name)
        return result

    for read, embed, message in (
        (lambda: fail("read"), lambda: work("embed", EMBEDDING), "read"),
        (lambda: work("read", 0), lambda: fail("embed"), "embed"),
        (lambda: fail("read"), lambda: fail("embed"), "read"),
    ):
        ended.clear()
        with pytest.raises(ValueError, match=message):
            side_by_side(read, embed, CPU)
        assert sorted(ended) == ["embed", "read"]


def test_inference_mode_holds_in_both() -> None:
    with torch.inference_mode():
        _, embedding = side_by_side(lambda: 0, lambda: Embedding(torch.zeros(1, 1, 1, 1)), CPU)
    assert embedding.coarse.is_inference()


class FakeStream:
    """Records what a CUDA stream is asked to do."""

    def __init__(self, name: str, events: list[str]):
        self.name, self.events = name, events

    def wait_stream(self, other: FakeStream) -> None:
        self.events.append(f"{self.name} waits for {other.name}")


def test_on_a_gpu_the_embedding_is_waited_for_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    events = list[str]()
    main, second = FakeStream("main", events), FakeStream("second", events)

    @contextmanager
    def stream(used: FakeStream) -> Iterator[None]:
        events.append(f"on {used.name}")
        yield
        events.append("on main")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(module, "_second_stream", lambda device: second)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, used: events.append(f"kept for {used.name}"))

    def read() -> str:
        events.append("read")
        return "result"

    def embed() -> Embedding:
        events.append("embed")
        return EMBEDDING

    assert side_by_side(read, embed, torch.device("cuda")) == ("result", EMBEDDING)
    around = ["second waits for main", "on second", "embed", "on main", "read", "main waits for second"]
    assert events == [*around, "kept for main", "kept for main"]


@pytest.mark.parametrize(
    ("threads", "cores", "policy", "room"),
    [
        (1, 2, None, True),
        (2, 2, None, False),
        (2, 2, "passive", True),
        (1, 1, "PASSIVE", False),
        (8, 16, "ACTIVE", True),
    ],
)
def test_threads_that_wait_in_a_loop_need_a_core_each(
    monkeypatch: pytest.MonkeyPatch, threads: int, cores: int, policy: str | None, room: bool
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    monkeypatch.setattr(cpu_threads, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert cpu_threads.room_for_two() == room
