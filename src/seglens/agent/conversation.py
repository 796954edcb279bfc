"""Algorithm S1 of LENS: one conversation about an image, with its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from seglens.agent.router import INTENTS, Route, Router, given_route
from seglens.backbones.heard import Heard
from seglens.prediction import Prediction
from seglens.schema import Box, Click, ReplyAnswer, RouteTaken
from seglens.segmenter import ImageSource, OpenedImage, Segmenter

GENERATED = "Sure, the segmentation result is generated."  # Algorithm S1, line 7
REFINED = "Sure, the segmentation result is refined."


@dataclass(frozen=True, eq=False)
class Reply:
    """What comes back: words, the way they came and, of a segmentation, the masks.

    `notice`: what to know about words that are the MLLM's own; None when there is nothing."""

    text: str
    route: Route
    predictions: tuple[Prediction, ...] = ()
    notice: str | None = None

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
class Memory:
    """M.last: an open image and what was segmented in it last."""

    opened: OpenedImage
    predictions: tuple[Prediction, ...]

    @property
    def empty(self) -> bool:
        return not any(prediction.mask.any() for prediction in self.predictions)


@dataclass(frozen=True, eq=False)
class Sight:
    """An image that talks may begin with, seen once: open, and heard with the router's prompt."""

    opened: OpenedImage
    heard: Heard


def look(segmenter: Segmenter, router: Router, image: ImageSource | OpenedImage | Sight) -> Sight:
    """See of an image what was not seen yet."""
    if isinstance(image, Sight):
        return image
    opened = image if isinstance(image, OpenedImage) else segmenter.open(image)
    return Sight(opened, router.hear(opened.image))


class Conversation:
    """One visitor's talk: the image, the last masks and all turns. Threads may share it: they wait for each other."""

    def __init__(
        self, segmenter: Segmenter, router: Router, image: ImageSource | OpenedImage | Sight, max_new_tokens: int
    ):
        self._segmenter, self._router, self._max_new_tokens = segmenter, router, max_new_tokens
        self._lock, self._turns = Lock(), list[Turn]()
        self._last: Memory | None = None
        self._sight = look(segmenter, router, image)

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        return self._sight.opened.image

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """What was segmented last."""
        return self._last.predictions if self._last is not None else ()

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(self._turns)

    def show(self, image: ImageSource | OpenedImage | Sight) -> None:
        """Go on with another image. The last masks stay those of the image they were found in, until the next."""
        with self._lock:
            self._sight = look(self._segmenter, self._router, image)

    def say(self, instruction: str, route: str | None = None, trust: bool = False) -> Reply:
        """Answer one instruction, by the route that the MLLM finds likeliest or by the one given; `trust` as in
        `OpenedImage.segment`.

        Raises QuestionError for an instruction that is empty, too long or not Unicode."""
        with self._lock:
            reply = self._follow(instruction, self._route(instruction, route), trust)
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
            if self._last.opened is not self._sight.opened:
                raise ValueError("the last mask belongs to the image before; segment something in this one first")
            found = self._last.opened.refine(self._last.predictions[0], clicks, box)
            self._last = replace(self._last, predictions=(found,))
            return Reply(found.reason or REFINED, Route("segmentation", {}, given=True), (found,))

    def point_at(self, predictions: Sequence[Prediction]) -> None:
        """Speak of these masks of the present image from now on, as if they had been segmented last; of none if empty.

        Raises ValueError for one of another image."""
        with self._lock:
            if any(one.image.shape != self.image.shape or (one.image != self.image).any() for one in predictions):
                raise ValueError("the masks are of another image; show() that one first")
            self._last = Memory(self._sight.opened, tuple(predictions)) if predictions else None

    def _route(self, instruction: str, name: str | None) -> Route:
        """Line 1. With no mask in memory, lines 10 and 11 send a follow-up through the algorithm again; taken by the
        letter it would never come back, so that the second time a follow-up is no choice."""
        route = self._router.route(self._sight.heard, instruction) if name is None else given_route(name)
        if route.intent != "followup" or not (self._last is None or self._last.empty):
            return route
        others = [intent for intent in INTENTS if intent != "followup"]
        return self._router.route(self._sight.heard, instruction, others)

    def _follow(self, instruction: str, route: Route, trust: bool) -> Reply:
        if route.intent == "segmentation":  # lines 2 to 7
            return self._segment(instruction, route, trust)
        if route.intent == "followup":  # lines 8, 9, 12 to 14
            assert self._last is not None
            words = self._ask(side_by_side(self._last.predictions[0]), instruction)
        else:
            words = self._ask(self.image, instruction)
        return Reply(words, route, notice=self._sight.opened.notice(instruction))

    def _segment(self, instruction: str, route: Route, trust: bool) -> Reply:
        found = self._sight.opened.segment(instruction, trust=trust)  # lines 4 and 5
        self._last = Memory(self._sight.opened, (found,))  # line 6
        return Reply(found.reason or GENERATED, route, (found,))

    def _ask(self, image: UInt8[np.ndarray, "h w 3"], question: str) -> str:
        return self._segmenter.ask(image, question, self._max_new_tokens)


def side_by_side(found: Prediction) -> UInt8[np.ndarray, "h ww 3"]:
    """Line 12: the original, and to its right the same with the mask alone laid over it."""
    plain = replace(
        found, keypoints=np.zeros((0, 2), np.float32), keypoint_scores=np.zeros(0, np.float32),
        keypoint_labels=np.zeros(0, bool),
    )  # fmt: skip
    return np.concatenate([found.image, np.asarray(plain.overlay(heat=False))], 1)
