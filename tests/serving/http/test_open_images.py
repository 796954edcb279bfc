"""Open images: a time to live, room by bytes, and none dropped under a request."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seglens.core.types import Sample
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter
from seglens.serving.http.api_errors import ApiError
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.open_images import ImageStore, bytes_of

TTL = 100.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def size(opened: OpenedImage) -> int:
    return bytes_of(opened)


def test_bytes_are_those_of_pixels_memory_and_maps(segmenter: Segmenter, scene: Sample) -> None:
    fresh = segmenter.open(scene.image)
    assert fresh.embedding is not None
    pairs = [tensor for pair in fresh.seen.memory for tensor in pair]  # type: ignore[attr-defined]
    least = scene.image.nbytes + fresh.embedding.coarse.nbytes + sum(tensor.nbytes for tensor in pairs)
    before = bytes_of(fresh)
    assert least <= before < 1.5 * least
    fresh.segment("the cup")
    assert bytes_of(fresh) > before  # what the method keeps
    large = segmenter.open(np.zeros((512, 512, 3), np.uint8))
    assert bytes_of(large) - before == (512**2 - 256**2) * 3


def test_an_image_expires_when_it_is_not_used(opened: OpenedImage, clock: Clock) -> None:
    images = ImageStore(10**9, TTL, Metrics(), clock)
    name = images.put(opened).id
    clock.now = 99
    assert images.describe(name).expires_in == 1
    with images.use(name) as held:
        assert held.opened is opened
    clock.now = 198
    assert images.describe(name).expires_in == 1  # the use put it off
    clock.now = 199
    with pytest.raises(ApiError, match="send the image to /v1/images again") as gone:
        images.describe(name)
    assert gone.value.status_code == 404


def test_the_longest_unused_image_makes_room(opened: OpenedImage, size: int, clock: Clock) -> None:
    images = ImageStore(3 * size, TTL, Metrics(), clock)
    first, second, third = (images.put(opened).id for _ in range(3))
    with images.use(first):
        pass
    fourth = images.put(opened).id
    with pytest.raises(ApiError):
        images.describe(second)
    assert [images.describe(name).id for name in (first, third, fourth)] == [first, third, fourth]


def test_an_image_that_a_request_uses_stays(opened: OpenedImage, size: int, clock: Clock) -> None:
    images = ImageStore(2 * size, TTL, Metrics(), clock)
    name, other = images.put(opened).id, images.put(opened).id
    with images.use(name), images.use(other):
        clock.now = 10 * TTL
        images.sweep()
        assert images.describe(name).id == name
        with pytest.raises(ApiError, match="full of images in use") as full:
            images.put(opened)
        assert full.value.status_code == 503
    assert images.put(opened).id not in (name, other)


def test_a_dropped_image_is_still_answered_and_counted(opened: OpenedImage, size: int, clock: Clock) -> None:
    metrics = Metrics()
    images = ImageStore(10**9, TTL, metrics, clock)
    name = images.put(opened).id
    with images.use(name) as held:
        images.drop(name)
        with pytest.raises(ApiError):
            images.drop(name)
        assert held.opened.image.any()
        assert metrics.registry.get_sample_value("seglens_images") == 0
        assert metrics.registry.get_sample_value("seglens_images_bytes") == size
    assert metrics.registry.get_sample_value("seglens_images_bytes") == 0


def test_an_image_larger_than_the_memory_for_images_is_refused(opened: OpenedImage, size: int, clock: Clock) -> None:
    with pytest.raises(ApiError, match="make it smaller") as refused:
        ImageStore(size - 1, TTL, Metrics(), clock).put(opened)
    assert refused.value.status_code == 413


def test_ids_cannot_be_guessed_and_digests_find_their_own(opened: OpenedImage, clock: Clock) -> None:
    images = ImageStore(10**9, TTL, Metrics(), clock)
    names = {images.put(opened).id for _ in range(20)}
    assert len(names) == 20
    assert min(map(len, names)) >= 36  # 192 random bits
    known = images.put(opened, "digest").id
    assert images.find("digest") == known
    images.drop(known)
    assert images.find("digest") is None


def test_shared_storage_is_counted_once(opened: OpenedImage, size: int) -> None:
    from seglens.agent import ConversationImage
    from seglens.backbones.chat_prefix import ChatPrefix

    tensor = torch.zeros(1, 2, 3)
    prefix = ChatPrefix((1,), 1, torch.zeros(1, 2, dtype=torch.long), [(tensor, tensor[:, :1])])
    assert bytes_of(opened, ConversationImage(opened, prefix)) == size + 6 * 4 + 2 * 8
