"""The server's requests and answers as JSON; what all interfaces share is in `seglens.core.schema`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from seglens.core.schema import Answer, Box, Click, Intent, RequestModel, RouteTaken, Segmented, WireModel

# One white pixel: an example that can be sent as it is.
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)

TRUST: bool = Field(
    default=False, description="Return the mask although the picture or a word is unfamiliar to the model."
)


class ImageRequest(RequestModel):
    """An image to be opened."""

    image: str = Field(
        min_length=1, description="A data URI ('data:image/png;base64,...') or bare base64.", examples=[_PIXEL]
    )


class ImageAnswer(WireModel):
    """An open image: use its `id` until it expires. Every use extends its time."""

    id: str
    width: int
    height: int
    bytes: int = Field(description="Memory that it takes on the server.")
    expires_in: float = Field(description="Seconds until it is dropped if it is not used.")


class SegmentRequest(RequestModel):
    """Queries about one image."""

    image: str = Field(
        min_length=1, description="The id of an open image, or the image itself as in `/v1/images`.", examples=[_PIXEL]
    )
    queries: list[str] = Field(min_length=1, description="What to segment, in words.", examples=[["the red cup"]])
    each: bool | None = Field(None, description="A mask for each of several things; null: if the words ask for it.")
    trust: bool = TRUST
    heat_map: bool = Field(False, description="Also return the attention map of the MLLM.")
    also: list[Literal["png", "geojson"]] = Field(
        [], description="Other formats for the masks, in addition to run lengths."
    )


class SegmentAnswer(Segmented):
    """One answer per query, and the attention maps."""

    heat_maps: list[list[list[float]] | None] | None = Field(
        None, description="Rows of the attention map over the square canvas, per query; null: not requested, or none."
    )
    png: str | None = Field(
        None,
        description="All masks in one lossless, indexed PNG, in base64: index k is the k-th thing, 0 the background.",
    )
    geojson: dict[str, Any] | None = Field(
        None, description="A FeatureCollection of polygons with holes, in pixels, each with its query and score."
    )


class RefineRequest(RequestModel):
    """A query whose mask is corrected. The server stores no clicks: send all of them each time."""

    image: str = Field(
        min_length=1, description="The id of an open image, or the image itself as in `/v1/images`.", examples=[_PIXEL]
    )
    query: str = Field(min_length=1, examples=["the red cup"])
    clicks: list[Click] = Field([], max_length=100, examples=[[{"x": 0, "y": 0, "label": 1}]])
    box: Box | None = None
    trust: bool = TRUST


class TalkRequest(RequestModel):
    """Fields of a chat request in addition to OpenAI's."""

    route: Intent | None = Field(default=None, description="The route of the answer; null: the MLLM decides.")
    trust: bool = TRUST
    heat_map: bool = Field(default=False, description="Also return the attention map of the MLLM.")


class TalkAnswer(WireModel):
    """Fields of a chat answer in addition to OpenAI's."""

    route: RouteTaken
    notice: str | None = Field(description="A warning about an answer in words: an unfamiliar picture, unknown words.")
    answers: list[Answer] = Field(description="The masks in each image of the message; empty for an answer in words.")
    images: list[int] = Field(
        description="For each answer, the number of the message's image that it is about, from 0."
    )
    heat_maps: list[list[list[float]] | None] | None = None
    ignored: list[str] = Field(description="Names of the parts of the request that have no effect on the answer.")


class Fault(WireModel):
    """An error: what was sent, what is needed, what to do."""

    message: str
    type: str = Field(
        description="'invalid_request_error' for an error of the request, 'server_error' for one of the server."
    )
    param: str | None = Field(description="The field with the error.")
    code: str = Field(description="The kind of the error, for programs.")
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
