"""One client's work, however large, leaves the model to the others once no client waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import anyio
import httpx
import numpy as np
import pytest
import torch

from http_server import Serve, Served, noise
from seglens.core.interruption import GivenUpError, interruptible, safe_point
from seglens.core.schema import Click
from seglens.inference.opened_image import OpenedImage
from seglens.inference.refinement import Refiner
from seglens.inference.segmenter import Segmenter
from seglens.serving.http.batcher import Batcher, Job, QueueLimits
from seglens.serving.http.metrics import Metrics
from seglens.serving.limits import Limits
from seglens.serving.tools.mcp import ToolError, Tools
from seglens.serving.tools.tool_images import ImageReader
from seglens.serving.tools.tool_service import ToolService

CLICKS = [{"x": k % 40, "y": k // 40, "label": k % 2} for k in range(100)]


@pytest.fixture
def clicked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A large decoder: every click takes a while. One entry per click that it got."""
    clicks = list[int]()

    def slow(self: Refiner, before: torch.Tensor, prompts: object) -> torch.Tensor:
        clicks.append(1)
        time.sleep(0.1)
        return before

    monkeypatch.setattr(Refiner, "click", slow)
    return clicks


def refine(server: Served, client: httpx.Client, name: str) -> httpx.Response:
    return client.post("/v1/refine", json={"image": name, "query": "the cup", "clicks": CLICKS, "trust": True})


@pytest.fixture
def hurried(serve: Serve) -> tuple[Served, str]:
    """A server that gives a request three seconds, and an image that is open there."""
    server = serve(request_seconds=3.0)
    return server, server.client.post("/v1/images", files={"file": noise(40, 40)}).json()["id"]


def answered(server: Served, name: str) -> bool:
    """Whether a small request of another client is answered, within some tries."""
    with httpx.Client(base_url=server.address, trust_env=False, timeout=60) as other:
        body = {"image": name, "queries": ["the cup"]}
        return any(other.post("/v1/segment", json=body).status_code == 200 for _ in range(5))


def test_at_its_limit(hurried: tuple[Served, str], clicked: list[int]) -> None:
    server, name = hurried
    assert refine(server, server.client, name).json()["error"]["code"] == "timeout"
    assert answered(server, name)
    assert 0 < len(clicked) < len(CLICKS)


def test_when_its_client_leaves(serve: Serve, clicked: list[int]) -> None:
    server = serve()
    name = server.client.post("/v1/images", files={"file": noise(40, 40)}).json()["id"]
    with (
        httpx.Client(base_url=server.address, trust_env=False, timeout=1.0) as leaving,
        pytest.raises(httpx.ReadTimeout),
    ):
        refine(server, leaving, name)
    assert answered(server, name)
    assert 0 < len(clicked) < len(CLICKS)


def test_a_result_that_takes_too_long_to_write(hurried: tuple[Served, str], monkeypatch: pytest.MonkeyPatch) -> None:
    written = list[int]()

    def slow(mask: np.ndarray) -> object:
        written.append(1)
        time.sleep(0.5)
        return encode(mask)

    from seglens.inference import prediction

    encode = prediction.encode_rle
    monkeypatch.setattr(prediction, "encode_rle", slow)
    server, name = hurried
    body = {"image": name, "queries": [f"the cup {k}" for k in range(32)]}
    assert server.client.post("/v1/segment", json=body).json()["error"]["code"] == "timeout"
    assert 0 < len(written) < 32


def test_the_others_get_their_turn_between_the_passes(
    serve: Serve, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a request with many passes and a small one that comes when the first pass runs."""
    server = serve(batch_pixels=40 * 40)
    large, small = (server.client.post("/v1/images", files={"file": noise(40, 40 + k)}).json()["id"] for k in (0, -1))
    began, may, order = threading.Event(), threading.Event(), list[str]()
    predictions = OpenedImage.predictions

    def watched(self: OpenedImage, queries: list[str], *rest: object) -> object:
        order.extend(queries)
        began.set()
        assert may.wait(30)
        return predictions(self, queries, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(OpenedImage, "predictions", watched)
    answers = dict[str, httpx.Response]()

    def ask(name: str, image: str, queries: list[str]) -> None:
        with httpx.Client(base_url=server.address, trust_env=False, timeout=60) as client:
            answers[name] = client.post("/v1/segment", json={"image": image, "queries": queries})

    first = threading.Thread(target=ask, args=("large", large, ["the cup", "the cat", "the tree"]))
    first.start()
    assert began.wait(30)
    second = threading.Thread(target=ask, args=("small", small, ["the duck"]))
    second.start()
    deadline = time.monotonic() + 30
    while "seglens_questions_waiting 1.0" not in server.client.get("/metrics").text and time.monotonic() < deadline:
        pass
    may.set()
    first.join()
    second.join()
    assert order == ["the cup", "the duck", "the cat", "the tree"]
    assert {name: answer.status_code for name, answer in answers.items()} == {"large": 200, "small": 200}
    assert [one["query"] for one in answers["large"].json()["answers"]] == ["the cup", "the cat", "the tree"]


def test_a_short_request_is_answered_before_a_long_one_ends(serve: Serve, clicked: list[int]) -> None:
    server = serve()
    name = server.client.post("/v1/images", files={"file": noise(40, 40)}).json()["id"]
    answers = list[httpx.Response]()
    body = {"image": name, "query": "the cup", "clicks": CLICKS[:40], "trust": True}
    long = threading.Thread(target=lambda: answers.append(server.client.post("/v1/refine", json=body)))
    long.start()
    deadline = time.monotonic() + 30
    while not clicked and time.monotonic() < deadline:
        time.sleep(0.001)
    assert answered(server, name)
    assert not answers
    assert 0 < len(clicked) < 40
    long.join()
    assert answers[0].status_code == 200
    assert len(clicked) == 40


# ---------------------------------------------------------------- the queue of the model


def waiting(began: threading.Event) -> Callable[[list[int]], list[int]]:
    def run(items: list[int]) -> list[int]:
        began.set()
        for _ in range(1000):
            safe_point()
            time.sleep(0.01)
        return items

    return run


def test_a_batch_ends_when_all_of_its_jobs_are_given_up() -> None:
    batcher, held, began = Batcher(QueueLimits(8), max_batch=4, metrics=Metrics()), threading.Event(), threading.Event()
    batcher.start()
    first = batcher.submit(Job([0], lambda items: [held.wait(10)] and items))
    one, other = (Job([k], waiting(began), "same") for k in (1, 2))
    futures = [batcher.submit(job) for job in (one, other)]
    held.set()
    assert began.wait(10)
    assert first.result(10) == [0]
    one.given_up.set()
    assert not futures[0].done()  # the other is waited for
    other.given_up.set()
    for future in futures:
        with pytest.raises(GivenUpError):
            future.result(10)
    assert batcher.submit(Job([3], list)).result(10) == [3]
    assert batcher.close(10.0)


# ---------------------------------------------------------------- words, and the tools of agents


def test_an_answer_in_words_ends_at_a_token(segmenter: Segmenter, picture: np.ndarray) -> None:
    tokens = 0

    def check() -> None:
        nonlocal tokens
        tokens += 1
        if tokens == 3:
            raise GivenUpError("enough")

    question = "What is in the picture?"
    answer = segmenter.backbone.generate(picture, question)
    with pytest.raises(GivenUpError), interruptible(check):
        segmenter.backbone.generate(picture, question)
    assert tokens == 3
    assert segmenter.backbone.generate(picture, question) == answer


@pytest.mark.parametrize("how", ["late", "cancelled"])
def test_a_call_of_a_tool(segmenter: Segmenter, picture: np.ndarray, clicked: list[int], how: str) -> None:
    service = ToolService(segmenter, ImageReader(Limits(), files=False))
    name = service.images.add(picture)
    tools = Tools(service, seconds=0.5 if how == "late" else 60.0)
    clicks = [Click(**c) for c in CLICKS]

    async def call() -> None:
        if how == "late":
            with pytest.raises(ToolError, match=r"no answer within 0.5 seconds; ask less"):
                await tools.refine(name, "the cup", clicks, trust=True)
        else:
            with anyio.move_on_after(0.5):
                await tools.refine(name, "the cup", clicks, trust=True)
        tools.seconds = 60.0
        assert (await tools.segment(name, ["the cup"])).structured_content

    anyio.run(call)
    assert 0 < len(clicked) < len(CLICKS)
