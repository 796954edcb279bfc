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
    """What comes back: words, the way they came and, of a segmentation, the masks: one per image that is shown.

    `notice`: what to know about words that are the MLLM's own; None when there is nothing. `spoken`: what it read and
    wrote for them; None where a mask was drawn."""

    text: str
    route: Route
    predictions: Sequence[Prediction] = ()
    notice: str | None = None
    spoken: GeneratedText | None = None

    @property
    def overlay(self) -> Image.Image | None:
        """The image with what was found; None where nothing was looked for."""
        return self.predictions[0].overlay() if self.predictions else None

    def answer(self) -> ReplyAnswer:
        """The same for a wire."""
        route = RouteTaken(intent=self.route.intent, scores=self.route.scores, given=self.route.given)
        answers = [found.answer() for found in self.predictions]
        return ReplyAnswer(text=self.text, notice=self.notice, route=route, answers=answers)


@dataclass(frozen=True, eq=False)
class Turn:
    """An instruction and the reply to it."""

    instruction: str
    reply: Reply


@dataclass(frozen=True, eq=False)
class LastSegmentation:
    """M.last: what was segmented last, and the open image of the first prediction."""

    opened: OpenedImage
    predictions: Sequence[Prediction]

    @property
    def empty(self) -> bool:
        return not any(prediction.mask.any() for prediction in self.predictions)


@dataclass(frozen=True, eq=False)
class ConversationImage:
    """An image that talks may begin with, seen once: open, and heard with the router's prompt."""

    opened: OpenedImage
    heard: ChatPrefix


Shown = ImageSource | OpenedImage | ConversationImage  # an image in any form that a talk may begin with


def look(segmenter: Segmenter, router: Router, image: Shown) -> ConversationImage:
    """See of an image what was not seen yet."""
    if isinstance(image, ConversationImage):
        return image
    opened = image if isinstance(image, OpenedImage) else segmenter.open(image)
    return ConversationImage(opened, router.hear(opened.image))


class Conversation:
    """One visitor's talk: the images shown (mostly one), the last masks and all turns, whose masks are kept in little
    memory. Threads may share it: they wait for each other."""

    def __init__(self, segmenter: Segmenter, router: Router, images: Sequence[Shown], max_new_tokens: int):
        self._segmenter, self._router, self._max_new_tokens = segmenter, router, max_new_tokens
        self._lock, self._turns = Lock(), list[Turn]()
        self._last: LastSegmentation | None = None
        self._sights = tuple(look(segmenter, router, image) for image in images)

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The first of those shown."""
        return self._sights[0].opened.image

    @property
    def predictions(self) -> Sequence[Prediction]:
        """What was segmented last."""
        return self._last.predictions if self._last is not None else ()

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(self._turns)

    def show(self, *images: Shown) -> None:
        """Go on with another image, or with several at once: what is segmented is looked for in each of them. The last
        masks stay those of the image they were found in, until the next."""
        with self._lock:
            self._sights = tuple(look(self._segmenter, self._router, image) for image in images)

    def say(
        self, instruction: str, route: str | None = None, trust: bool = False, manner: GenerationOptions | None = None
    ) -> Reply:
        """Answer one instruction, by the route that the MLLM finds likeliest or by the one given; `trust` as in
        `OpenedImage.segment`. `manner`: of an answer in words.

        Raises QuestionError for an instruction that is empty, too long or not Unicode, and for one that takes an image
        where none is shown."""
        with self._lock:
            manner = manner or GenerationOptions(self._max_new_tokens)
            reply = self._follow(instruction, self._route(instruction, route), trust, manner)
            self._turns.append(Turn(instruction, reply))
            return reply

    def recall(self, instruction: str, route: str | None = None, trust: bool = False) -> None:
        """Go through an instruction of an earlier talk for the masks it left behind; nothing is said. What `say`
        answers afterwards is what it would have answered then: it knows of earlier words only by their masks.

        Raises as `say`."""
        with self._lock:
            way = self._route(instruction, route)
            if way.intent == "segmentation":
                self._segment(instruction, way, trust)

    def refine(self, clicks: Sequence[Click] = (), box: Box | None = None) -> Reply:
        """Refine the last mask by clicks or a box, in its open image. The memory then holds the refined one.

        Raises ValueError when there is no mask to refine, or the method has none that clicks refine."""
        with self._lock:
            if self._last is None:
                raise ValueError("there is no mask to refine yet; segment something first")
            if not any(self._last.opened is sight.opened for sight in self._sights):
                raise ValueError("the last mask belongs to the image before; segment something in this one first")
            refined = CompressedPredictions([self._last.opened.refine(self._last.predictions[0], clicks, box)])
            self._last = replace(self._last, predictions=refined)
            return Reply(refined.bare[0].reason or REFINED, Route("segmentation", {}, given=True), refined)

    def point_at(self, predictions: Sequence[Prediction]) -> None:
        """Speak of these masks of the present image from now on, as if they had been segmented last; of none if empty.

        Raises ValueError for one of another image."""
        with self._lock:
            if any(one.image.shape != self.image.shape or (one.image != self.image).any() for one in predictions):
                raise ValueError("the masks are of another image; show() that one first")
            self._last = (
                LastSegmentation(self._sights[0].opened, CompressedPredictions(predictions)) if predictions else None
            )

    def _route(self, instruction: str, name: str | None) -> Route:
        """Line 1. With no mask in memory, lines 10 and 11 send a follow-up through the algorithm again; taken by the
        letter it would never come back, so that the second time a follow-up is no choice. Without an image there are
        words alone."""
        if not self._sights:
            return _wordy(name)
        route = self._likeliest(instruction, INTENTS) if name is None else given_route(name)
        if route.intent != "followup" or not (self._last is None or self._last.empty):
            return route
        return self._likeliest(instruction, [intent for intent in INTENTS if intent != "followup"])

    def _likeliest(self, instruction: str, among: Collection[Intent]) -> Route:
        """By the mean of what the MLLM thinks before each of the images."""
        routes = [self._router.route(sight.heard, instruction, among) for sight in self._sights]
        scores: dict[str, float] = {
            intent: sum(route.scores[intent] for route in routes) / len(routes) for intent in INTENTS
        }
        return Route(max(among, key=lambda intent: scores[intent]), scores)

    def _follow(self, instruction: str, route: Route, trust: bool, manner: GenerationOptions) -> Reply:
        if route.intent == "segmentation":  # lines 2 to 7
            return self._segment(instruction, route, trust)
        shown = [sight.opened.image for sight in self._sights]
        if route.intent == "followup":  # lines 8, 9, 12 to 14
            assert self._last is not None
            pads = self._segmenter.backbone.pads
            shown = [pair(found, pads) for found in self._last.predictions if found.mask.any()]
        spoken = self._segmenter.backbone.generate_text(shown, instruction, manner)
        return Reply(spoken.text, route, notice=self._notice(instruction), spoken=spoken)

    def _notice(self, question: str) -> str | None:
        """What to know about an answer in words: the most that there is to say of an image."""
        notices = [sight.opened.notice(question) for sight in self._sights]
        notices = notices or [notice(None, self._segmenter.backbone.prompts.unknown(question))]
        return max((said for said in notices if said), key=len, default=None)

    def _segment(self, instruction: str, route: Route, trust: bool) -> Reply:
        found = CompressedPredictions(
            sight.opened.segment(instruction, trust=trust) for sight in self._sights
        )  # lines 4 and 5
        self._last = LastSegmentation(self._sights[0].opened, found)  # line 6
        reasons = [one.reason or GENERATED for one in found.bare]
        said = [f"Image {number}: {reason}" for number, reason in enumerate(reasons, 1)]
        return Reply("\n".join(said) if len({*reasons}) > 1 else reasons[0], route, found)


def _wordy(name: str | None) -> Route:
    """The way of a talk without an image. Raises QuestionError for another way."""
    if name not in (None, "dialogue"):
        raise QuestionError(f"got the route {name!r} and no image; send one, or ask for words")
    return Route("dialogue", {}, given=name is not None)


def pair(found: Prediction, padded: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """Line 12: the original, and to its right the same with the mask alone laid over it.

    A pair that will be `padded` to a square stands one above the other where that makes the square smaller: both are
    then seen larger."""
    plain = replace(
        found,
        keypoints=np.zeros((0, 2), np.float32),
        keypoint_scores=np.zeros(0, np.float32),
        keypoint_labels=np.zeros(0, bool),
    )
    height, width = found.image.shape[:2]
    axis = 0 if padded and width > height else 1
    return np.concatenate([found.image, np.asarray(plain.overlay(heat=False))], axis)
