"""What the server receives and answers, as JSON, beside what all surfaces share (`seglens.core.schema`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from seglens.core.schema import Answer, Box, Click, Intent, RequestModel, RouteTaken, Segmented, WireModel

# One white pixel: an example that can be sent as it stands.
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)

TRUST: bool = Field(default=False, description="Show the mask in spite of an unfamiliar picture or unknown words.")


class ImageRequest(RequestModel):
    """An image to be opened."""

    image: str = Field(
        min_length=1, description="A data URI ('data:image/png;base64,...') or bare base64.", examples=[_PIXEL]
    )


class ImageAnswer(WireModel):
    """An open image: ask about it by its `id` until it expires. Every use puts the end off."""

    id: str
    width: int
    height: int
    bytes: int = Field(description="What it takes of the server's memory.")
    expires_in: float = Field(description="Seconds until it is dropped if nobody asks about it.")


class SegmentRequest(RequestModel):
    """Queries about one image."""

    image: str = Field(
        min_length=1, description="The id of an open image, or the image itself as in `/v1/images`.", examples=[_PIXEL]
    )
    queries: list[str] = Field(min_length=1, description="What to segment, in words.", examples=[["the red cup"]])
    each: bool | None = Field(None, description="A mask for each thing that is meant; null: the words decide.")
    trust: bool = TRUST
    heat_map: bool = Field(False, description="Say also where the MLLM looked.")
    also: list[Literal["png", "geojson"]] = Field([], description="The masks in other forms, beside run lengths.")


class SegmentAnswer(Segmented):
    """One answer per query, and where the MLLM looked."""

    heat_maps: list[list[list[float]] | None] | None = Field(
        None, description="Rows of the attention map over the square canvas, per query; null: not asked for, or none."
    )
    png: str | None = Field(
        None, description="All masks in one lossless, indexed PNG, in base64: index k is the k-th thing, 0 the ground."
    )
    geojson: dict[str, Any] | None = Field(
        None, description="A FeatureCollection of polygons with holes, in pixels, each with its query and score."
    )


class RefineRequest(RequestModel):
    """A query whose mask is corrected. Nothing is remembered: send all clicks so far."""

    image: str = Field(
        min_length=1, description="The id of an open image, or the image itself as in `/v1/images`.", examples=[_PIXEL]
    )
    query: str = Field(min_length=1, examples=["the red cup"])
    clicks: list[Click] = Field([], max_length=100, examples=[[{"x": 0, "y": 0, "label": 1}]])
    box: Box | None = None
    trust: bool = TRUST


class TalkRequest(RequestModel):
    """What a chat may ask of us beyond OpenAI's fields."""

    route: Intent | None = Field(default=None, description="Take this way; null: the MLLM decides.")
    trust: bool = TRUST
    heat_map: bool = Field(default=False, description="Say also where the MLLM looked.")


class TalkAnswer(WireModel):
    """What a chat says of us beyond OpenAI's fields."""

    route: RouteTaken
    notice: str | None = Field(
        description="What to know about words of the MLLM: an unfamiliar picture, unknown words."
    )
    answers: list[Answer] = Field(
        description="What was segmented, in each image of the message; empty where words are the answer."
    )
    images: list[int] = Field(description="Of each answer, which of the message's images it is about, from 0.")
    heat_maps: list[list[list[float]] | None] | None = None
    ignored: list[str] = Field(description="What was sent and changes no answer.")


class Fault(WireModel):
    """What went wrong: what came, what is needed, what to do."""

    message: str
    type: str = Field(description="Whose fault it is: 'invalid_request_error' the asker's, 'server_error' ours.")
    param: str | None = Field(description="The field at fault.")
    code: str = Field(description="The same for the same fault, for programs.")
    request_id: str


class FaultAnswer(WireModel):
    """Every error, in the form that OpenAI's clients read."""

    error: Fault


class Health(WireModel):
    status: Literal["ok"]


class ModelAnswer(WireModel):
    """A model as OpenAI's clients list it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "seglens"


class ModelsAnswer(WireModel):
    object: Literal["list"] = "list"
    data: list[ModelAnswer]
