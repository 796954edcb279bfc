"""Images and questions of several clients run in one pass, with the answers that each would have had alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from seglens.core.types import Sample
from seglens.data.world import WorldData
from seglens.inference import image_batches
from seglens.inference.compressed_predictions import Folded
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter
from seglens.serving.http import service as module
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.open_images import bytes_of
from seglens.serving.http.service import Service
from seglens.serving.http.settings import Settings

SAME = 0.999  # of the pixels: batches round otherwise


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return list(WorldData(n=2, seed=8, queries=3))


@pytest.fixture
def service(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setattr(module, "batch_size", lambda system: 4)
    return Service(segmenter, Settings(), Metrics())


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """How many images each call of a function gets from now on, in its first argument."""
    counts, function = list[int](), getattr(owner, name)

    def call(first: Sequence[Any], *more: Any, **named: Any) -> Any:
        counts.append(len(first))
        return function(first, *more, **named)

    monkeypatch.setattr(owner, name, call)
    return counts


def predictions_of(answers: Sequence[Folded | None]) -> list[Prediction]:
    return [answer.prediction() for answer in answers if answer is not None]


def test_images_are_opened_in_one_pass_and_each_has_its_own_memory(
    service: Service, segmenter: Segmenter, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [segmenter.open(sample.image) for sample in samples]
    passes = counted(monkeypatch, segmenter.backbone, "open_many")
    together = service._open([sample.image for sample in samples])
    assert passes == [2]
    for one, other, sample in zip(together, alone, samples, strict=True):
        assert bytes_of(one) == pytest.approx(bytes_of(other), rel=0.02)  # not that of the whole batch
        query = sample.targets[0].query
        assert (one.segment(query).mask == other.segment(query).mask).mean() >= SAME


@pytest.mark.slow
def test_questions_about_several_images_share_a_pass(
    service: Service, segmenter: Segmenter, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (segmenter.open(sample.image) for sample in samples)
    one, other = ([target.query for target in sample.targets] for sample in samples)
    items = [(first, one[0]), (second, other[0]), (first, one[1]), (second, other[1]), (first, one[2])]
    expected = [segmenter.open(opened.image).segment(query) for opened, query in items]
    passes = counted(monkeypatch, segmenter.backbone, "read_many")
    for _ in range(2):  # the second time with what the method keeps of an image
        answers = service._segment(None, False, items)
        for answer, wanted in zip(predictions_of(answers), expected, strict=True):
            assert answer.query == wanted.query
            assert answer.found == wanted.found
            assert np.mean(answer.mask == wanted.mask) >= SAME
    assert passes == [2, 2]
    monkeypatch.setattr(segmenter.method, "precompute", lambda read: pytest.fail("it was kept"))
    again = first.segment(one[0])
    assert np.mean(again.mask == expected[0].mask) >= SAME


def test_what_is_kept_for_an_image_is_not_computed_again(
    service: Service, segmenter: Segmenter, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [segmenter.open(sample.image) for sample in samples]
    items = [(one, sample.targets[0].query) for one, sample in zip(opened, samples, strict=True)]
    calls, precompute = list[int](), segmenter.method.precompute
    monkeypatch.setattr(segmenter.method, "precompute", lambda read: calls.append(1) or precompute(read))
    service._segment(None, False, items)
    answers = predictions_of(service._segment(None, False, items))
    assert calls == [1]
    monkeypatch.undo()
    for answer, (one, query) in zip(answers, items, strict=True):
        assert np.mean(answer.mask == segmenter.open(one.image).segment(query).mask) >= SAME


def test_a_pass_has_no_more_images_than_fit(
    service: Service, segmenter: Segmenter, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "batch_size", lambda system: 1)
    monkeypatch.setattr(image_batches, "_output", lambda *_: pytest.fail("they share a pass"))
    items = [(segmenter.open(sample.image), sample.targets[0].query) for sample in samples]
    assert len(service._segment(None, False, items)) == 2
