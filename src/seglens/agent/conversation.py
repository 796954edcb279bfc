"""Algorithm S1 of LENS: one conversation about an image, with its memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from seglens.agent.router import INTENTS, Intent, Route, Router, given_route
from seglens.backbones import GeneratedText, GenerationOptions, QuestionError
from seglens.backbones.chat_prefix import ChatPrefix
from seglens.core.schema import Box, Click, ReplyAnswer, RouteTaken
from seglens.inference.compressed_predictions import CompressedPredictions
from seglens.inference.opened_image import OpenedImage
from seglens.inference.prediction import Prediction
from seglens.inference.reasons import notice
from seglens.inference.segmenter import ImageSource, Segmenter

GENERATED = "Sure, the segmentation result is generated."  # Algorithm S1, line 7
REFINED = "Sure, the segmentation result is refined."


@dataclass(frozen=True, eq=False)
class Reply:
    """A text with its route and, after a segmentation, the masks: one per image of the conversation.

    `notice`: a warning about a text that the MLLM wrote; None without one. `spoken`: that text with its numbers of
    tokens; None after a segmentation."""

    text: str
    route: Route
    predictions: Sequence[Prediction] = ()
    notice: str | None = None
    spoken: GeneratedText | None = None

    @property
    def overlay(self) -> Image.Image | None:
        """The image with its mask; None where nothing was segmented."""
        return self.predictions[0].overlay() if self.predictions else None

    def answer(self) -> ReplyAnswer:
        """The same as plain values, for the server."""
        route = RouteTaken(intent=self.route.intent, scores=self.route.scores, given=self.route.given)
        answers = [prediction.answer() for prediction in self.predictions]
        return ReplyAnswer(text=self.text, notice=self.notice, route=route, answers=answers)


@dataclass(frozen=True, eq=False)
class Turn:
    """An instruction and the reply to it."""

    instruction: str
    reply: Reply


@dataclass(frozen=True, eq=False)
class LastSegmentation:
    """M.last: the last predictions, and the open image of the first."""

    opened: OpenedImage
    predictions: Sequence[Prediction]

    @property
    def empty(self) -> bool:
        return not any(prediction.mask.any() for prediction in self.predictions)


@dataclass(frozen=True, eq=False)
class ConversationImage:
    """An image that conversations may start from, encoded once: open, and with the router's prompt."""

    opened: OpenedImage
    prefix: ChatPrefix


ImageInput = ImageSource | OpenedImage | ConversationImage  # an image in any form that a conversation may start from


def prepare_image(segmenter: Segmenter, router: Router, image: ImageInput) -> ConversationImage:
    """Encode those parts of an image that are not encoded yet."""
    if isinstance(image, ConversationImage):
        return image
    opened = image if isinstance(image, OpenedImage) else segmenter.open(image)
    return ConversationImage(opened, router.prefix(opened.image))


class Conversation:
    """A conversation: its images (mostly one), the last masks and all turns, whose masks are stored compressed. Threads
    may share it: they wait for each other."""

    def __init__(self, segmenter: Segmenter, router: Router, images: Sequence[ImageInput], max_new_tokens: int):
        self._segmenter, self._router, self._max_new_tokens = segmenter, router, max_new_tokens
        self._lock, self._turns = Lock(), list[Turn]()
        self._last: LastSegmentation | None = None
        self._images = tuple(prepare_image(segmenter, router, image) for image in images)

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The first image."""
        return self._images[0].opened.image

    @property
    def predictions(self) -> Sequence[Prediction]:
        """The last masks."""
        return self._last.predictions if self._last is not None else ()

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(self._turns)

    def show(self, *images: ImageInput) -> None:
        """Continue with another image, or with several at once: then an instruction is segmented in each of them. The
        last masks stay those of the earlier image until the next segmentation."""
        with self._lock:
            self._images = tuple(prepare_image(self._segmenter, self._router, image) for image in images)

    def say(
        self, instruction: str, route: str | None = None, trust: bool = False, options: GenerationOptions | None = None
    ) -> Reply:
        """Answer one instruction, by the route that the MLLM finds most likely or by `route`; `trust` as in
        `OpenedImage.segment`. `options` are those of an answer in words.

        Raises QuestionError for an instruction that is empty, too long or not Unicode, and for one that needs an image
        where there is none."""
        with self._lock:
            options = options or GenerationOptions(self._max_new_tokens)
            reply = self._reply(instruction, self._route(instruction, route), trust, options)
            self._turns.append(Turn(instruction, reply))
            return reply

    def recall(self, instruction: str, route: str | None = None, trust: bool = False) -> None:
        """Repeat an instruction of an earlier conversation for its masks; there is no reply. Then `say` answers as it
        would have answered there: earlier words matter only through their masks.

        Raises as `say`."""
        with self._lock:
            taken = self._route(instruction, route)
            if taken.intent == "segmentation":
                self._segment(instruction, taken, trust)

    def refine(self, clicks: Sequence[Click] = (), box: Box | None = None) -> Reply:
        """Refine the last mask by clicks or a box, in its open image. The refined one is then the last mask.

        Raises ValueError when there is no mask to refine, or the method cannot refine by clicks."""
        with self._lock:
            if self._last is None:
                raise ValueError("there is no mask to refine yet; segment something first")
            if not any(self._last.opened is image.opened for image in self._images):
                raise ValueError("the last mask belongs to the image before; segment something in this one first")
            refined = CompressedPredictions([self._last.opened.refine(self._last.predictions[0], clicks, box)])
            self._last = replace(self._last, predictions=refined)
            return Reply(refined.bare[0].reason or REFINED, Route("segmentation", {}, given=True), refined)

    def point_at(self, predictions: Sequence[Prediction]) -> None:
        """Take these masks of the present image as the last ones, as if they had just been segmented; none if empty.

        Raises ValueError for one of another image."""
        with self._lock:
            if any(one.image.shape != self.image.shape or (one.image != self.image).any() for one in predictions):
                raise ValueError("the masks are of another image; show() that one first")
            self._last = (
                LastSegmentation(self._images[0].opened, CompressedPredictions(predictions)) if predictions else None
            )

    def _route(self, instruction: str, name: str | None) -> Route:
        """Line 1. With no mask in memory, lines 10 and 11 start the algorithm again for a follow-up; as written it
        would never end, so the second time "followup" is not among the intents. Without an image: dialogue."""
        if not self._images:
            return _dialogue_only(name)
        route = self._most_likely(instruction, INTENTS) if name is None else given_route(name)
        if route.intent != "followup" or not (self._last is None or self._last.empty):
            return route
        return self._most_likely(instruction, [intent for intent in INTENTS if intent != "followup"])

    def _most_likely(self, instruction: str, among: Collection[Intent]) -> Route:
        """By the mean of the probabilities over the images."""
        routes = [self._router.route(image.prefix, instruction, among) for image in self._images]
        scores: dict[str, float] = {
            intent: sum(route.scores[intent] for route in routes) / len(routes) for intent in INTENTS
        }
        return Route(max(among, key=lambda intent: scores[intent]), scores)

    def _reply(self, instruction: str, route: Route, trust: bool, options: GenerationOptions) -> Reply:
        if route.intent == "segmentation":  # lines 2 to 7
            return self._segment(instruction, route, trust)
        images = [image.opened.image for image in self._images]
        if route.intent == "followup":  # lines 8, 9, 12 to 14
            assert self._last is not None
            pads = self._segmenter.backbone.pads
            images = [pair(prediction, pads) for prediction in self._last.predictions if prediction.mask.any()]
        generated = self._segmenter.backbone.generate_text(images, instruction, options)
        return Reply(generated.text, route, notice=self._notice(instruction), spoken=generated)

    def _notice(self, question: str) -> str | None:
        """A warning about an answer in words: the longest of those about the images."""
        notices = [image.opened.notice(question) for image in self._images]
        notices = notices or [notice(None, self._segmenter.backbone.prompts.unknown(question))]
        return max((text for text in notices if text), key=len, default=None)

    def _segment(self, instruction: str, route: Route, trust: bool) -> Reply:
        # lines 4 and 5
        predictions = CompressedPredictions(image.opened.segment(instruction, trust=trust) for image in self._images)
        self._last = LastSegmentation(self._images[0].opened, predictions)  # line 6
        reasons = [one.reason or GENERATED for one in predictions.bare]
        texts = [f"Image {number}: {reason}" for number, reason in enumerate(reasons, 1)]
        return Reply("\n".join(texts) if len({*reasons}) > 1 else reasons[0], route, predictions)


def _dialogue_only(name: str | None) -> Route:
    """The route of a conversation without an image. Raises QuestionError when another one is named."""
    if name not in (None, "dialogue"):
        raise QuestionError(f"got the route {name!r} and no image; send one, or ask for words")
    return Route("dialogue", {}, given=name is not None)


def pair(prediction: Prediction, padded: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """Line 12: the original, and to its right the same with the mask laid over it, without keypoints.

    A pair that will be `padded` to a square stands one above the other where that makes the square smaller: the MLLM
    then gets both larger."""
    plain = replace(
        prediction,
        keypoints=np.zeros((0, 2), np.float32),
        keypoint_scores=np.zeros(0, np.float32),
        keypoint_labels=np.zeros(0, bool),
    )
    height, width = prediction.image.shape[:2]
    axis = 0 if padded and width > height else 1
    return np.concatenate([prediction.image, np.asarray(plain.overlay(heat=False))], axis)
