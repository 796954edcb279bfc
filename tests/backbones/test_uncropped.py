"""The chat sees all of a picture, whatever its shape, also before a processor that crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bare import Bare
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from seglens.agent import Agent
from seglens.agent.conversation import pair
from seglens.backbones import Backbone, GenerationOptions, load_backbone
from seglens.backbones.uncropped import LONGEST, crops, squared
from seglens.decoders import MaskDecoder
from seglens.inference.prediction import Prediction
from seglens.inference.segmenter import Segmenter
from shared import shared
from tiny import KINDS
from train_run import fresh, head_config

QUESTION = "what is in the picture ?"
CROPPED = {"llava-1.5"}  # the kinds whose own processor cuts the ends off a long picture
CLIP = CLIPImageProcessorPil(size={"shortest_edge": 84}, crop_size={"height": 84, "width": 84})
MARK = 24  # pixels: some 1.4 of the 84 that are left of 1400


def strip() -> np.ndarray:
    return np.random.default_rng(2).integers(60, 180, (200, 1400, 3), dtype=np.uint8)


def photograph() -> np.ndarray:
    return np.asarray(Image.open(shared("coco/train2017/000000060623.jpg")).convert("RGB"))  # 640 x 427


PICTURES = {"strip": strip, "tall strip": lambda: strip().transpose(1, 0, 2).copy(), "photograph": photograph}


@pytest.fixture(params=PICTURES)
def image(request: pytest.FixtureRequest) -> np.ndarray:
    return PICTURES[request.param]()


def corners(image: np.ndarray) -> list[np.ndarray]:
    """The picture with a mark in each of its corners, one at a time."""
    height, width = image.shape[:2]
    marked = []
    for rows in (slice(0, MARK), slice(height - MARK, height)):
        for columns in (slice(0, MARK), slice(width - MARK, width)):
            one = image.copy()
            one[rows, columns] = (255, 0, 0)
            marked.append(one)
    return marked


def model_pixels(backbone: Backbone, *images: np.ndarray) -> torch.Tensor:
    return backbone.chat.inputs(images, QUESTION)["pixel_values"]


def found_in(image: np.ndarray) -> Prediction:
    """A mask of the left end of a picture."""
    mask = np.zeros(image.shape[:2], bool)
    mask[:MARK, :MARK] = True
    return Prediction(
        query="the end",
        image=image,
        mask=mask,
        score=1.0,
        presence=None,
        found=True,
        heat_map=None,
        keypoints=np.zeros((0, 2), np.float32),
        keypoint_scores=np.zeros(0, np.float32),
        keypoint_labels=np.zeros(0, bool),
    )


def test_no_corner_is_lost(backbone: Backbone, image: np.ndarray) -> None:
    """`backbone` is a LLaVA-1.5 with its own processor, which would lose all four."""
    whole = model_pixels(backbone, image)
    assert not any(torch.equal(model_pixels(backbone, one), whole) for one in corners(image))
    as_is = backbone.processor.image_processor
    bare = [as_is(Image.fromarray(one))["pixel_values"] for one in (image, *corners(image))]
    assert all(np.array_equal(one, bare[0]) for one in bare)


def test_nothing_of_a_pair_is_lost(backbone: Backbone, image: np.ndarray) -> None:
    """Neither of the original nor of the mask that the question is about."""
    pictures = pair(found_in(image), backbone.pads)
    whole = model_pixels(backbone, pictures)
    halves = np.split(pictures, 2, axis=0 if image.shape[1] > image.shape[0] else 1)
    assert np.array_equal(halves[0], image)
    assert not np.array_equal(halves[1], image)
    for number, half in enumerate(halves):
        for one in corners(half):
            parts = [one if n == number else half for n, half in enumerate(halves)]
            joined = np.concatenate(parts, axis=0 if image.shape[1] > image.shape[0] else 1)
            assert not torch.equal(model_pixels(backbone, joined), whole)


def test_a_follow_up_shows_the_whole_pair(
    backbone: Backbone, decoder: MaskDecoder, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Algorithm S1, lines 12 to 14, in a conversation: the model is given all of the picture that `pair` makes."""
    segmenter = Segmenter(backbone, decoder, fresh(backbone, decoder), head_config(backbone, decoder))
    talk = Agent(segmenter).start(image)
    talk.point_at([found_in(image)])
    pictures, generate = list[torch.Tensor](), backbone.module.generate

    def watched(**how: torch.Tensor) -> torch.Tensor:
        pictures.append(how["pixel_values"])
        return generate(**how)

    monkeypatch.setattr(backbone.module, "generate", watched)
    talk.say("what colour is it ?", route="followup")
    expected = pair(found_in(image), padded=True)
    assert min(expected.shape[:2]) > min(image.shape[:2])  # the longer sides lie together
    assert torch.equal(pictures[0], model_pixels(backbone, expected))


def test_all_ways_to_talk_see_it(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words, several pictures at once, likelihoods and the router's prompt."""
    pictures = list[torch.Tensor]()
    model = backbone.module
    features = model.model.get_image_features

    def watched(pixel_values: torch.Tensor, *args: object, **how: object) -> object:
        pictures.append(pixel_values)
        return features(pixel_values, *args, **how)

    monkeypatch.setattr(model.model, "get_image_features", watched)
    image = strip()
    whole = model_pixels(backbone, image)
    backbone.generate(image, QUESTION, 2)
    backbone.generate_text([image, image], QUESTION, GenerationOptions(2))
    backbone.likelihoods(image, QUESTION, ["yes", "no"])
    backbone.chat_prefix(image, QUESTION)
    assert [len(one) for one in pictures] == [1, 2, 1, 1]
    assert all(torch.equal(picture[None], whole) for one in pictures for picture in one)


def test_it_lies_in_the_middle_of_the_mean_colour(image: np.ndarray) -> None:
    """As LLaVA-1.5 pads: centred, in CLIP's mean rounded down (122, 116, 104)."""
    height, width = image.shape[:2]
    square, side = squared(image, CLIP), max(height, width)
    assert square.shape == (side, side, 3)
    top, left = (side - height) // 2, (side - width) // 2
    assert np.array_equal(square[top : top + height, left : left + width], image)
    filled = np.ones((side, side), bool)
    filled[top : top + height, left : left + width] = False
    assert (square[filled] == (122, 116, 104)).all()


def test_a_square_stays_as_it_is() -> None:
    image = strip()[:, :200]
    assert squared(image, CLIP) is image


def test_what_is_scaled_to_more_than_is_kept_is_not_lost_either() -> None:
    """As for ImageNet: the short side to 96 pixels, of which the middle 84 stay."""
    habit = CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 84, "width": 84})
    for image in (strip(), strip()[:, :200]):
        whole, *marked = (
            habit(Image.fromarray(squared(one, habit)))["pixel_values"] for one in (image, *corners(image))
        )
        assert not any(np.array_equal(one, whole) for one in marked)


def test_the_square_of_a_long_strip_fits_into_memory() -> None:
    """Its own square would be of 1.2 GB."""
    image = np.zeros((3, 20_000, 3), np.uint8)
    image[:, -40:] = 255
    square = squared(image, CLIP)
    assert square.shape == (LONGEST, LONGEST, 3)
    assert (square[(LONGEST - 1) // 2, -8:] == 255).all()


def test_processors_that_do_not_crop_are_untouched(family: Path, image: np.ndarray) -> None:
    """Bit for bit; and so is one that crops, on request."""
    bare = KINDS[family.name].processor()
    assert crops(bare.image_processor) == (family.name in CROPPED)
    backbone = load_backbone(family, **KINDS[family.name].options, as_is=family.name in CROPPED)
    assert not backbone.pads
    expected = Bare(backbone.module, bare, KINDS[family.name]).inputs(image, QUESTION)
    inputs = backbone.chat_inputs(image, QUESTION)
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[key], expected[key].to(inputs[key].dtype)) for key in inputs)
    side_by_side = pair(found_in(image), backbone.pads)
    assert side_by_side.shape == (image.shape[0], 2 * image.shape[1], 3)  # as Algorithm S1 has it
