"""Many pictures with the same queries: shared passes, shortages of memory, what is known already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pytest

from seglens.data.image_decoding import ImageError
from seglens.data.world import WorldData
from seglens.inference import image_answers
from seglens.inference.image_answers import Answering, ImageAnswers, Known
from seglens.inference.image_batches import PIXELS, batch_size, bytes_per_image, in_batches, predictions_of_batch
from seglens.inference.image_sources import NamedImage
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter

QUERIES = ["the largest thing", "the leftmost thing"]


def same(image: np.ndarray) -> np.ndarray:
    return image


@pytest.fixture(scope="module")
def pictures() -> list[NamedImage]:
    samples = WorldData(n=5, seed=4, queries=1)
    return [NamedImage(one.id, one.id, one.id, "", partial(same, one.image)) for one in samples]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each pass had."""
    sizes = list[int]()

    def counted(system: Segmenter, images: Sequence[np.ndarray], *rest: object, **named: object) -> object:
        sizes.append(len(images))
        return predictions_of_batch(system, images, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(image_answers, "predictions_of_batch", counted)
    return sizes


def check(answers: Sequence[ImageAnswers | Known[str]], pictures: Sequence[NamedImage], segmenter: Segmenter) -> None:
    """Each is the answer about its picture, with the masks of a picture that is segmented alone."""
    for one, picture in zip(answers, pictures, strict=True):
        assert isinstance(one, ImageAnswers)
        assert (one.image, list(one.faults)) == (picture, [])
        for prediction, alone in zip(one.predictions, segmenter.segment(picture.pixels, QUERIES), strict=True):
            np.testing.assert_array_equal(prediction.mask, alone.mask)
            assert (prediction.query, prediction.found) == (alone.query, alone.found)


def test_pictures_share_passes(segmenter: Segmenter, pictures: list[NamedImage], passes: list[int]) -> None:
    answering = Answering(lambda: segmenter, QUERIES, most=2)
    check(list(answering.answers(pictures)), pictures, segmenter)
    assert passes == [2, 2]  # the fifth is alone


def test_a_batch_that_needs_too_much_memory_is_halved(
    segmenter: Segmenter, pictures: list[NamedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[int]()

    def short(system: Segmenter, images: Sequence[np.ndarray], *rest: object, **named: object) -> object:
        sizes.append(len(images))
        if len(images) > 2:
            raise MemoryError
        return predictions_of_batch(system, images, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(image_answers, "predictions_of_batch", short)
    answering = Answering(lambda: segmenter, QUERIES, most=4)
    check(list(answering.answers([*pictures[:4], *pictures[:4]])), [*pictures[:4], *pictures[:4]], segmenter)
    assert sizes == [4, 2, 2, 2, 2]  # and the next batch is not tried at its full size again


def test_a_picture_that_needs_too_much_memory_does_not_affect_the_others(
    segmenter: Segmenter, pictures: list[NamedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its masks are computed, after the pass."""

    def short(system: Segmenter, images: Sequence[np.ndarray], *rest: object, **named: object) -> object:
        first, *others = predictions_of_batch(system, images, *rest, **named)  # type: ignore[arg-type]
        return [missing(first), *others]

    def missing(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
        yield next(predictions)
        raise MemoryError

    monkeypatch.setattr(image_answers, "predictions_of_batch", short)
    check(list(Answering(lambda: segmenter, QUERIES, most=3).answers(pictures[:3])), pictures[:3], segmenter)


def test_a_picture_that_cannot_be_read_has_its_fault_in_its_place(
    segmenter: Segmenter, pictures: list[NamedImage], passes: list[int]
) -> None:
    def unreadable() -> np.ndarray:
        raise ImageError("'bad.png' is no image")

    bad = NamedImage("bad", "bad.png", "bad", "", unreadable)
    first, second, third = Answering(lambda: segmenter, QUERIES, most=3).answers([pictures[0], bad, pictures[1]])
    check([first, third], pictures[:2], segmenter)
    assert isinstance(second, ImageAnswers)
    assert [fault.says for fault in second.faults] == ["'bad.png' is no image"]
    assert passes == [2]


def test_a_refused_query_does_not_affect_the_others(
    segmenter: Segmenter, pictures: list[NamedImage], passes: list[int]
) -> None:
    """It is refused for every picture: after the first batch, pictures are answered alone at once."""
    answering = Answering(lambda: segmenter, [QUERIES[0], "cat " * 5000], most=2)
    answers = list(answering.answers(pictures[:4]))
    assert passes == [2]
    for one in answers:
        assert isinstance(one, ImageAnswers)
        assert [p.query for p in one.predictions] == QUERIES[:1]
        assert [fault.query for fault in one.faults] == ["cat " * 5000]


def test_known_pictures_take_part_in_the_passes_of_unknown_ones(
    segmenter: Segmenter, pictures: list[NamedImage], passes: list[int]
) -> None:
    """So that what was missing has the bytes of a run that was not interrupted, wherever it stopped."""
    whole = list(Answering(lambda: segmenter, QUERIES, most=3).answers(pictures[:3]))
    items = [Known("a", pictures[0]), pictures[1], Known("c", pictures[2])]
    first, second, third = Answering(lambda: segmenter, QUERIES, most=3).answers(items)
    assert (first, third) == (items[0], items[2])
    assert passes == [3, 3]
    assert isinstance(second, ImageAnswers)
    assert isinstance(whole[1], ImageAnswers)
    for one, other in zip(second.predictions, whole[1].predictions, strict=True):
        np.testing.assert_array_equal(one.canvas_logits, other.canvas_logits)


@pytest.mark.slow
def test_a_method_that_reads_one_image_at_a_time_gives_the_same_answers(pictures: list[NamedImage]) -> None:
    """Also where a batch is asked for, and for each image as many queries as it has."""
    segmenter = Segmenter.from_parts("embedded/mllm", "embedded/sam", segmentation_only=True)
    assert batch_size(segmenter) == 1
    for most in (None, 3):
        answering = Answering(lambda: segmenter, QUERIES, most=most)
        check(list(answering.answers(pictures[:3])), pictures[:3], segmenter)
    few, more = segmenter.segment([picture.pixels for picture in pictures[:2]], [QUERIES[:1], QUERIES])
    assert [len(few), len(more)] == [1, 2]
    np.testing.assert_array_equal(few[0].mask, segmenter.segment(pictures[0].pixels, QUERIES[:1])[0].mask)


def test_images_with_different_numbers_of_queries_share_a_pass(
    segmenter: Segmenter, pictures: list[NamedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, queries = [one.pixels for one in pictures[:3]], [QUERIES, QUERIES[1:], [*QUERIES, "the rightmost thing"]]
    alone = [segmenter.segment(image, some) for image, some in zip(images, queries, strict=True)]
    sizes, decode = list[tuple[int, ...]](), segmenter.method.decode
    monkeypatch.setattr(
        segmenter.method,
        "decode",
        lambda read, *rest: (sizes.append(read.question_mask.shape[:2]), decode(read, *rest))[1],
    )
    together = segmenter.segment(images, queries)
    assert sizes == [(3, 3)]
    for some, others in zip(alone, together, strict=True):
        assert [one.query for one in some] == [other.query for other in others]
        for one, other in zip(some, others, strict=True):
            np.testing.assert_array_equal(one.mask, other.mask)


def test_no_model_is_loaded_for_what_is_known() -> None:
    def load() -> Segmenter:
        raise AssertionError("loaded")

    items: list[Known[str]] = [Known("a"), Known("b")]
    assert list(Answering(load, QUERIES).answers(items)) == items


def test_batches_begin_at_the_same_items_whatever_their_sizes() -> None:
    """A large picture is a batch by itself, and the next block begins where it would without it."""
    sizes = [1, 1, PIXELS, 1, 1, 1, 1, 1, 1]
    batches = list(in_batches(list(enumerate(sizes)), 4, lambda item: item[1]))
    assert [[number for number, _ in batch] for batch in batches] == [[0, 1], [2], [3], [4, 5, 6, 7], [8]]


def test_the_default_batch_is_bounded_by_memory(segmenter: Segmenter) -> None:
    assert batch_size(segmenter, free=2**36) == 8
    assert batch_size(segmenter, free=2**20) == 1
    assert batch_size(segmenter, free=12 * bytes_per_image(segmenter)) == 3  # a quarter of it
