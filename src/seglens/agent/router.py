"""The route of an instruction: the label, of three, that the unchanged MLLM finds most likely."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
from jaxtyping import UInt8

from seglens.backbones import Backbone
from seglens.backbones.chat_prefix import ChatPrefix
from seglens.checkpoints.origin import EMBEDDED_PARTS, Origin
from seglens.core.names import check_name
from seglens.world.language import INTENT

Intent = Literal["dialogue", "segmentation", "followup"]
INTENTS: tuple[Intent, ...] = get_args(Intent)

FEW_SHOT = """\
Sort the user's instruction about the image into one of three intents.
dialogue: a question or a remark that words answer.
segmentation: the user wants something in the image cut out, marked, outlined or shown as a mask, even if the \
instruction also asks something else.
followup: a question about what was segmented just before.

Instruction: What is the weather like in this picture?
Intent: dialogue
Instruction: Please segment the dog on the left.
Intent: segmentation
Instruction: Why did you choose that one?
Intent: followup
Instruction: How many people can you see?
Intent: dialogue
Instruction: Which of these could I open a bottle with? Mark it.
Intent: segmentation
Instruction: What colour is the thing you marked?
Intent: followup
Instruction: {}
Answer with the intent only."""


@dataclass(frozen=True)
class RoutePrompt:
    """The prompt for the intent of an instruction, which takes the place of "{}", and the possible answers.

    Raises ValueError when `text` has not exactly one place for the instruction."""

    text: str
    labels: tuple[str, str, str] = ("dialogue", "segmentation", "followup")  # in the order of `INTENTS`

    def __post_init__(self) -> None:
        if self.text.count("{}") != 1:
            raise ValueError(
                f"the prompt of a router has {self.text.count('{}')} times {{}}; the instruction needs one"
            )
        if len({*self.labels} - {""}) != len(INTENTS):
            raise ValueError(f"got the labels {self.labels}; need {len(INTENTS)} different ones, none of them empty")

    def ask(self, instruction: str) -> str:
        return self.text.replace("{}", instruction)


PROMPTS = {"few-shot": RoutePrompt(FEW_SHOT), "embedded": RoutePrompt(INTENT)}


def prompt_of(backbone: Backbone) -> RoutePrompt:
    """The embedded MLLMs were trained on one sentence; all others get examples."""
    embedded = Origin.of(backbone.name).name in EMBEDDED_PARTS
    return PROMPTS["embedded" if embedded else "few-shot"]


@dataclass(frozen=True)
class Route:
    """The intent of an instruction, and the probability of each; no probabilities where the caller chose."""

    intent: Intent
    scores: dict[str, float]
    given: bool = False


class Router:
    """Asks a frozen MLLM for the intent of an instruction about an image."""

    def __init__(self, backbone: Backbone, prompt: RoutePrompt | None = None):
        backbone.check_can_chat()
        self.backbone = backbone
        self.prompt = prompt_of(backbone) if prompt is None else prompt

    def prefix(self, image: UInt8[np.ndarray, "h w 3"]) -> ChatPrefix:
        """An image with the prompt up to the instruction: the routes of several instructions share it."""
        return self.backbone.chat_prefix(image, self.prompt.text)

    def route(
        self, image: UInt8[np.ndarray, "h w 3"] | ChatPrefix, instruction: str, among: Collection[Intent] = INTENTS
    ) -> Route:
        """The most likely intent of those in `among`. Raises QuestionError for an empty instruction, or one that is not
        Unicode."""
        self.backbone.prompts.check(instruction)
        likelihoods = self.backbone.likelihoods(image, self.prompt.ask(instruction), self.prompt.labels)
        scores = dict(zip(INTENTS, likelihoods.double().softmax(0).tolist(), strict=True))
        return Route(max(among, key=lambda intent: scores[intent]), {**scores})


def given_route(name: str) -> Route:
    """The route that a caller names. Raises ValueError for an unknown name."""
    check_name(name, INTENTS, "route")
    return Route(cast(Intent, name), {}, given=True)
