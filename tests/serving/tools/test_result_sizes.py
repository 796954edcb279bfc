"""What an MCP client gets stays under what clients take, whatever the image and the masks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import Bool, UInt8
from mcp_types import CallToolResult
from PIL import Image

from seglens.core.schema import Segmented
from seglens.data.masks import decode_rle
from seglens.inference.instance import Instance
from seglens.inference.opened_image import OpenedImage
from seglens.serving.tools.mcp import MAX_RESULT, _result
from seglens.serving.tools.overlay_picture import SIDE, drawn, jpeg, shrunk
from seglens.serving.tools.result_sizes import within
from seglens.serving.tools.tool_service import ToolAnswer

MEGABYTE = 1_000_000  # the least that a client is known to stop at
Make = Callable[..., ToolAnswer]
RNG = np.random.default_rng(0)


def noise(height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def disc(height: int, width: int) -> Bool[np.ndarray, "height width"]:
    y, x = np.mgrid[:height, :width]
    return (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 3) ** 2


@pytest.fixture
def sight(opened: OpenedImage) -> Make:
    """Makes what was seen in an image out of masks of one's own."""
    like = opened.segment("the cup")

    def make(
        image: UInt8[np.ndarray, "h w 3"],
        masks: Sequence[Bool[np.ndarray, "h w"]],
        query: str = "a thing",
        things: int = 0,
    ) -> ToolAnswer:
        none = {
            "keypoints": np.zeros((0, 2), np.float32),
            "keypoint_scores": np.zeros(0, np.float32),
            "keypoint_labels": np.zeros(0, bool),
        }
        fields = {"image": image, "found": True, "score": 0.5, **none}
        predictions = tuple(
            replace(
                like,
                query=f"{query} {k}",
                mask=mask,
                logits=mask.astype(np.float32),
                instances=tuple(Instance(mask, 0.5) for _ in range(things)),
                **fields,
            )
            for k, mask in enumerate(masks)
        )
        answers = [one.answer() for one in predictions]
        height, width = image.shape[:2]
        return ToolAnswer(Segmented(image="image-0", width=width, height=height, answers=answers), predictions)

    return make


def size(result: CallToolResult) -> int:
    return len(result.model_dump_json().encode())


@pytest.mark.parametrize(
    ("side", "count", "things"), [(1400, 1, 0), (300, 1, 100), (800, 4, 0), (400, 32, 0), (200, 8, 40)]
)
def test_masks_of_noise_on_noise_fit(sight: Make, side: int, count: int, things: int) -> None:
    image, masks = noise(side, side), [RNG.random((side, side)) < 0.5] * count
    result = _result(sight(image, masks, things=things), overlay=True)
    assert size(result) < MEGABYTE
    answers = Segmented.model_validate(result.structured_content).answers
    assert len(answers) == count
    for answer in answers:
        mask = decode_rle(answer.segmentation.model_dump())
        assert 0.25 < mask.mean() < 0.75  # of the noise, one half
        assert answer.area == pytest.approx(side**2 / 2, rel=0.05)  # of the whole mask
    notice = result.content[-1].text
    assert "fewer pixels than the image" in notice
    assert f"of {count}" in notice


def test_the_largest_image_fits_too(sight: Make) -> None:
    """64 megapixels, the most that is taken, an eighth of them noise."""
    image, mask = np.zeros((8000, 8000, 3), np.uint8), np.zeros((8000, 8000), bool)
    mask[:, :1000] = RNG.random((8000, 1000)) < 0.5
    result = _result(sight(image, [mask]), overlay=True)
    assert 100_000 < size(result) < MEGABYTE  # and the room is used


def test_an_answer_that_fits_is_complete(sight: Make) -> None:
    masks = [disc(480, 640)] * 32
    result = _result(sight(noise(480, 640), masks), overlay=True)
    answers = Segmented.model_validate(result.structured_content).answers
    assert all((decode_rle(answer.segmentation.model_dump()) == masks[0]).all() for answer in answers)
    assert [part.type for part in result.content] == ["text", "image"]


def test_only_the_long_masks_lose_detail(sight: Make) -> None:
    long = RNG.random((2000, 2000)) < 0.5
    result = sight(noise(20, 20).repeat(100, 0).repeat(100, 1), [disc(2000, 2000), long, disc(2000, 2000)])
    answer, lighter = within(result.answer, 300_000)
    assert lighter == [1]
    assert len(answer.model_dump_json()) <= 300_000
    assert [tuple(one.segmentation.size) == (2000, 2000) for one in answer.answers] == [True, False, True]
    assert "2 of 3" in _result(result, overlay=False).content[-1].text


def test_words_alone_may_be_too_much(sight: Make) -> None:
    result = sight(noise(20, 20), [disc(20, 20)] * 32, query="😀" * 9000)
    with pytest.raises(ValueError, match="ask less, or in fewer words"):
        _result(result, overlay=True)
    fits = _result(sight(noise(20, 20), [disc(20, 20)] * 32, query="😀" * 4000), overlay=True)
    assert size(fits) < MEGABYTE


def test_the_budget_leaves_room_for_what_wraps_a_result() -> None:
    assert MAX_RESULT < MEGABYTE - 10_000


# ---------------------------------------------------------------- the picture


def test_one_picture_shows_all_masks_in_their_colours(sight: Make) -> None:
    left, right = np.zeros((60, 90), bool), np.zeros((60, 90), bool)
    left[10:50, 5:40], right[10:50, 50:85] = True, True
    grey = np.full((60, 90, 3), 128, np.uint8)
    overlay = np.asarray(drawn(grey, [left, right]))
    assert (overlay[~(left | right)] == 128).all()
    colours = {tuple(overlay[30, 20].tolist()), tuple(overlay[30, 70].tolist())}
    assert len(colours) == 2
    assert (128, 128, 128) not in colours
    numbered = np.asarray(drawn(grey, [left, right], [1, 2]))
    changed = (numbered != overlay).any(2)
    assert (changed & left).any()
    assert (changed & right).any()
    _, picture = _result(sight(grey, [left, right]), overlay=True).content
    assert picture.mime_type == "image/jpeg"
    assert Image.open(io.BytesIO(base64.b64decode(picture.data))).size == (90, 60)


def test_nothing_found_is_no_picture(opened: OpenedImage) -> None:
    nothing = opened.segment("the xyzzy")
    assert not nothing.found
    answer = Segmented(image="image-0", width=256, height=256, answers=[nothing.answer()])
    assert [part.type for part in _result(ToolAnswer(answer, (nothing,)), overlay=True).content] == ["text"]


@pytest.mark.parametrize(("height", "width"), [(3000, 4000), (5, 60_000), (60_000, 5), (1, 1)])
def test_a_picture_is_small_enough_to_send(height: int, width: int) -> None:
    mask = np.zeros((height, width), bool)
    mask[height // 2, width // 2] = True
    picture = drawn(np.zeros((height, width, 3), np.uint8), [mask], [1])
    assert max(picture.size) <= SIDE
    assert np.asarray(picture).any()  # a single pixel does not vanish
    assert len(jpeg(picture, 20_000)) <= 20_000


def test_a_picture_of_noise_is_made_to_fit() -> None:
    picture = Image.fromarray(noise(1024, 1024))
    for most in (400_000, 100_000, 10_000):
        encoded = jpeg(picture, most)
        assert len(encoded) <= most
        assert Image.open(io.BytesIO(encoded)).format == "JPEG"


def test_a_mask_of_fewer_pixels_is_the_same_thing() -> None:
    mask = disc(200, 300)
    small = shrunk(mask, 20, 30)
    assert small.mean() == pytest.approx(mask.mean(), abs=0.02)
    assert not shrunk(np.zeros((200, 300), bool), 20, 30).any()
    thin = np.zeros((200, 300), bool)
    thin[:, 7] = True
    assert shrunk(thin, 20, 30)[:, 0].all()
