"""Queries and answers as JSON: one schema for the command line, the server, the page and other agents.

Coordinates are (x, y) in pixels of the image as it is shown, its EXIF rotation applied; pixel i covers [i, i + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel


class WireModel(BaseModel):
    """A value that is sent as JSON: frozen, and an unknown field is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RequestModel(WireModel):
    """Values of requests are not converted: "1" is no number, and 0 is no boolean."""

    model_config = ConfigDict(strict=True)


def _whole(value: object) -> object:
    """Python treats False as 0, and so does a Literal."""
    if isinstance(value, bool | float):
        raise ValueError("input should be a whole number")
    return value


Whole = BeforeValidator(_whole)


class RunLengths(WireModel):
    """A mask as COCO's compressed run-length encoding."""

    size: tuple[int, int] = Field(description="Height and width: the image's, or less where an answer had to be short.")
    counts: str


class Click(RequestModel):
    """A point that the user marks."""

    x: float
    y: float
    label: Annotated[Literal[0, 1], Whole] = Field(1, description="1: this belongs to the target; 0: it does not.")


class Box(RequestModel):
    """A box around the target; x1 and y1 are exclusive."""

    x0: float
    y0: float
    x1: float
    y1: float


class Corrections(WireModel):
    """All that a user has shown of a target so far."""

    clicks: tuple[Click, ...] = ()
    box: Box | None = None

    def joined(self, clicks: Sequence[Click], box: Box | None) -> Corrections:
        """These and then more clicks; a new box takes the place of the old one."""
        return Corrections(clicks=(*self.clicks, *clicks), box=box or self.box)


class Keypoint(WireModel):
    """A place that the MLLM attended to."""

    x: float
    y: float
    score: float
    on_target: bool


class InstanceAnswer(WireModel):
    """One of several things that a query means."""

    score: float = Field(description="Mean foreground probability over its mask.")
    box: tuple[int, int, int, int]
    area: int = Field(description="Pixels.")
    segmentation: RunLengths


class Answer(WireModel):
    """The answer to one query about one image."""

    query: str
    found: bool = Field(description="False: no mask is shown; `reason` says why.")
    reason: str | None = Field(description="Why nothing was found, and what to do next; null when something was.")
    unknown_words: list[str] = Field(description="Words of the query that the model's tokenizer does not know.")
    familiar: bool | None = Field(
        description="Whether the picture is of the kind that the model was made for; null: the model cannot say."
    )
    presence: float | None = Field(description="Probability that the target is there; null: the method cannot say.")
    score: float | None = Field(description="Mean foreground probability over the mask; null when nothing was found.")
    box: tuple[int, int, int, int] | None
    area: int = Field(description="Pixels of the mask.")
    segmentation: RunLengths
    instances: list[InstanceAnswer] = Field(description="One mask each; empty unless they were asked for.")
    keypoints: list[Keypoint]
    milliseconds: dict[str, float] = Field(description="Of each lap; `open` is shared by all queries about an image.")


class AnswerLine(Answer):
    """A line of `seglens segment --json` and `refine --json`: what was found for one query in one image."""

    image: str = Field(description="The image as it was named; of a video, with the number of the frame.")
    files: dict[str, str] = Field(description="The file that holds the answer, by format.")


class FaultLine(WireModel):
    """A line of `seglens segment --json`: an image, or a query about it, that has no answer."""

    image: str
    query: str | None = Field(None, description="null: the image cannot be used for any query.")
    error: str = Field(description="What came, what is needed, what to do.")


class Line(RootModel[AnswerLine | FaultLine]):
    """Every line of `seglens segment --json` and `refine --json`: one per image and query."""


class ShardLine(WireModel):
    """A line of `seglens segment --json` in shards."""

    file: str
    images: int
    bad: int = Field(description="Images with a fault: no answer, or none to some of the queries.")
    known: bool = Field(description="It is from an earlier run.")


class AskLine(WireModel):
    """The line of `seglens ask --json`."""

    image: str
    question: str
    answer: str
    notice: str | None = Field(description="What to know about the answer: an unfamiliar picture, unknown words.")


class Segmented(WireModel):
    """Answers about one image, which stays open."""

    image: str = Field(description="Id of the image while it is open: give it in place of the image to ask again.")
    width: int
    height: int
    answers: list[Answer] = Field(description="One per query, in their order.")


class TextAnswer(WireModel):
    """The MLLM's answer about one image, which stays open."""

    image: str = Field(description="Id of the image while it is open: give it in place of the image to ask again.")
    width: int
    height: int
    text: str
    notice: str | None = Field(description="What to know about the answer: an unfamiliar picture, unknown words.")


Intent = Literal["dialogue", "segmentation", "followup"]


class RouteTaken(WireModel):
    """The way an instruction went (LENS, Algorithm S1)."""

    intent: Intent
    scores: dict[str, float] = Field(description="Probability of each way; empty where there was no choice.")
    given: bool = Field(description="The asker chose.")


class ReplyAnswer(WireModel):
    """The answer of an agent to one instruction."""

    text: str
    notice: str | None = Field(
        description="What to know about words of the MLLM: an unfamiliar picture, unknown words."
    )
    route: RouteTaken
    answers: list[Answer] = Field(description="What was segmented; empty where words are the answer.")
