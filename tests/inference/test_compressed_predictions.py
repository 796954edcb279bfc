"""Many queries about one picture take the memory of a few masks, however they are asked."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exports.predictions import two_cups
from seglens.agent import Agent
from seglens.core import mask_logits as drawing
from seglens.exports import FORMATS, Command, Export
from seglens.exports.batch import BatchRun
from seglens.inference.compressed_predictions import Bits, CompressedPredictions, Folded, bare
from seglens.inference.image_sources import Sources
from seglens.inference.instance import Instance
from seglens.inference.opened_image import OpenedImage
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.routes import _answer
from seglens.serving.http.service import Service
from seglens.serving.http.settings import Settings
from seglens.serving.limits import Limits
from seglens.serving.tools.mcp import _result
from seglens.serving.tools.tool_images import ImageReader
from seglens.serving.tools.tool_service import ToolService

HEIGHT, WIDTH = 1000, 1500
MANY, FEW = 32, 4  # queries
LEAST = 3  # planes of the picture's size by which the memory may grow for all those queries more
ASKED = ("the large cat", "the large cup", "the large tree", "the duck")  # the first three find something
QUERIES = [f"{' ' * k}{query}" for k in range(8) for query in ASKED]


@pytest.fixture
def image() -> np.ndarray:
    """Large for a test; as much larger than what is made at a time as 64 megapixels are."""
    patches = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return patches[np.arange(HEIGHT)[:, None] * 8 // HEIGHT, np.arange(WIDTH) * 12 // WIDTH]


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "TOGETHER", HEIGHT * WIDTH)


def planes(work: Callable[[], object]) -> float:
    """How many masks of the picture's size the memory would hold that the work takes at its peak, its result
    included."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = work()
        peak = tracemalloc.get_traced_memory()[1] - before
        del result
    finally:
        tracemalloc.stop()
    return peak / (HEIGHT * WIDTH)


def test_what_is_kept_is_what_was_given(opened: OpenedImage) -> None:
    predictions = [*opened.segment(["each cup", "the house"], trust=True), two_cups()]
    compressed = CompressedPredictions(iter(predictions))
    assert len(compressed) == 3
    assert any(one.instances for one in predictions)
    for before, after, summary in zip(predictions, compressed, compressed.bare, strict=True):
        for field in fields(Prediction):
            one, other = getattr(before, field.name), getattr(after, field.name)
            if field.name == "instances":
                assert [(o.score, o.box, o.size) for o in one] == [(o.score, o.box, o.size) for o in other]
                assert all(np.array_equal(a.mask, b.mask) for a, b in zip(one, other, strict=True))
            else:
                assert one is other or np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
        assert (summary.query, summary.found, summary.score) == (before.query, before.found, before.score)
        assert after.answer() == before.answer()
    assert [one.query for one in compressed[1:]] == [one.query for one in bare(predictions)][1:]


def test_bits_of_any_mask() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 5), (40, 61)):
        for mask in (rng.random(shape) < 0.5, np.zeros(shape, bool), np.ones(shape, bool)):
            assert np.array_equal(Bits.of(mask).mask(), mask)
            assert Bits.of(mask).mask().dtype == bool


def test_one_query_after_the_other_finds_the_same(segmenter: Segmenter, image: np.ndarray) -> None:
    opened = segmenter.open(image)
    together = opened.segment(QUERIES[:3], trust=True)
    for one, other in zip(together, opened.predictions(QUERIES[:3], trust=True), strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert (one.query, one.score, one.presence) == (other.query, other.score, other.presence)
    assert list(opened.predictions([])) == []


@pytest.mark.parametrize("together", [1, HEIGHT * WIDTH * 2, HEIGHT * WIDTH * 8])
def test_scores_are_the_same_in_any_company(
    segmenter: Segmenter, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    opened = segmenter.open(image)
    alone = list(opened.predictions(QUERIES[:4], trust=True))
    monkeypatch.setattr(drawing, "TOGETHER", together)
    assert [one.score for one in opened.predictions(QUERIES[:4], trust=True)] == [one.score for one in alone]


def asked_of_a_tool_service(
    segmenter: Segmenter, image: np.ndarray, folder: Path, queries: list[str]
) -> Callable[[], object]:
    service = ToolService(segmenter, ImageReader(Limits()))
    name = service.images.add(image)
    return lambda: _result(service.segment(name, queries, trust=True), overlay=True)


def asked_of_a_tool(segmenter: Segmenter, image: np.ndarray, folder: Path, queries: list[str]) -> Callable[[], object]:
    langchain = pytest.importorskip("seglens.serving.tools.langchain")
    tool = langchain.segment_tool(segmenter, image)
    call = {"name": "segment", "args": {"queries": queries, "trust": True}, "id": "1", "type": "tool_call"}
    return lambda: tool.invoke(call).artifact


def asked_of_a_server(
    segmenter: Segmenter, image: np.ndarray, folder: Path, queries: list[str]
) -> Callable[[], object]:
    """What its threads do for one request: passes over the queries, and then the answer."""
    service = Service(segmenter, Settings(batch_pixels=HEIGHT * WIDTH), Metrics())
    opened = segmenter.open(image)

    def work() -> bytes:
        folded = [one for query in queries for one in service._segment(None, True, [(opened, query)]) if one]
        return _answer("img_1", CompressedPredictions(folded), True, ("png", "geojson"))

    return work


def asked_of_a_batch(segmenter: Segmenter, image: np.ndarray, folder: Path, queries: list[str]) -> Callable[[], object]:
    Image.fromarray(image).save(folder / "patches.png")

    def work() -> list[object]:
        sources = Sources.of([str(folder / "patches.png")])
        command = Command(queries)
        with Export(folder / f"of {len(queries)}", list(FORMATS), command, sources.paths) as export:
            return list(BatchRun(sources, command, export, lambda: segmenter, trust=True))

    return work


def talked_about(segmenter: Segmenter, image: np.ndarray, folder: Path, queries: list[str]) -> Callable[[], object]:
    agent = Agent(segmenter)
    sight = agent.prepare(image)

    def work() -> object:
        talk = agent.start(sight)
        for query in queries:
            talk.say(query, "segmentation", trust=True)
        return talk

    return work


WAYS = [asked_of_a_tool_service, asked_of_a_tool, asked_of_a_server, asked_of_a_batch, talked_about]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_memory_does_not_grow_by_a_mask_for_a_query(
    segmenter: Segmenter, image: np.ndarray, tmp_path: Path, way: Callable[..., Callable[[], object]]
) -> None:
    few, many = (planes(way(segmenter, image, tmp_path, QUERIES[:count])) for count in (FEW, MANY))
    assert many - few < LEAST, (few, many)


def test_instances_are_kept_as_small() -> None:
    mask = np.ones((HEIGHT, WIDTH), bool)
    one = two_cups()
    things = tuple(Instance(mask, 0.5) for _ in range(MANY))
    whole = Prediction(
        query="things",
        image=np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        mask=mask,
        score=0.5,
        presence=None,
        found=True,
        heat_map=None,
        keypoints=one.keypoints,
        keypoint_scores=one.keypoint_scores,
        keypoint_labels=one.keypoint_labels,
        instances=things,
    )
    assert planes(lambda: Folded.of(whole)) < 2
