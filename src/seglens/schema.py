"""What is asked and answered, as JSON: one schema for the command line, the server, the page and other people's agents.

Coordinates are (x, y) in pixels of the image as it is shown, its EXIF rotation applied; pixel i covers [i, i + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Said(BaseModel):
    """A value that crosses a wire: frozen, and a field that nobody knows is an error, never passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunLengths(Said):
    """A mask as COCO's compressed run-length encoding."""

    size: tuple[int, int] = Field(description="Height and width of the image.")
    counts: str


class Click(Said):
    """A point that the user says something of."""

    x: float
    y: float
    label: Literal[0, 1] = Field(1, description="1: this belongs to the target; 0: it does not.")


class Box(Said):
    """A box around the target; x1 and y1 are exclusive."""

    x0: float
    y0: float
    x1: float
    y1: float


class Corrections(Said):
    """All that a user has shown of a target so far."""

    clicks: tuple[Click, ...] = ()
    box: Box | None = None

    def joined(self, clicks: Sequence[Click], box: Box | None) -> Corrections:
        """These and then more clicks; a new box takes the place of the old one."""
        return Corrections(clicks=(*self.clicks, *clicks), box=box or self.box)


class Keypoint(Said):
    """Where the MLLM looked."""

    x: float
    y: float
    score: float
    on_target: bool


class InstanceAnswer(Said):
    """One of several things that a query means."""

    score: float = Field(description="Mean foreground probability over its mask.")
    box: tuple[int, int, int, int]
    area: int = Field(description="Pixels.")
    segmentation: RunLengths


class Answer(Said):
    """The answer to one query about one image."""

    query: str
    found: bool = Field(description="False: nothing in the image fits; the mask is empty.")
    presence: float | None = Field(description="Probability that the target is there; null: the method cannot say.")
    score: float = Field(description="Mean foreground probability over the drawn mask.")
    box: tuple[int, int, int, int] | None
    area: int = Field(description="Pixels of the mask.")
    segmentation: RunLengths
    instances: list[InstanceAnswer] = Field(description="One mask each; empty unless they were asked for.")
    keypoints: list[Keypoint]
    milliseconds: dict[str, float] = Field(description="Of each lap; `open` is shared by all queries about an image.")


class Segmented(Said):
    """Answers about one image, which stays open."""

    image: str = Field(description="Id of the image while it is open: give it in place of the image to ask again.")
    width: int
    height: int
    answers: list[Answer] = Field(description="One per query, in their order.")


class Told(Said):
    """What the MLLM says of one image, which stays open."""

    image: str = Field(description="Id of the image while it is open: give it in place of the image to ask again.")
    width: int
    height: int
    text: str
