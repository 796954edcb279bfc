"""The messages of a chat as OpenAI's clients write them, with one more field: `seglens`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from seglens.core.schema import RouteTaken


class RequestPart(BaseModel):
    """What clients send; it may have unknown fields."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class TextPart(RequestPart):
    type: Literal["text"]
    text: str


class RefusalPart(RequestPart):
    """A part of another model's answer."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(RequestPart):
    url: str = Field(min_length=1, description="A data URI, or the id of an open image.")


class ImagePart(RequestPart):
    type: Literal["image_url"]
    image_url: ImageUrl | Annotated[str, Field(min_length=1)]

    @property
    def image(self) -> str:
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
AnswerPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class UserMessage(RequestPart):
    role: Literal["user"]
    content: str | list[Part]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return " ".join(part.text for part in self.content if isinstance(part, TextPart)).strip()

    @property
    def images(self) -> list[str]:
        if isinstance(self.content, str):
            return []
        return [part.image for part in self.content if isinstance(part, ImagePart)]


class RouteOfAnswer(RequestPart):
    """The route of an earlier answer of this server."""

    route: RouteTaken


class AssistantMessage(RequestPart):
    """An earlier answer, by this model or by another one, which may have called tools."""

    role: Literal["assistant"]
    content: str | list[AnswerPart] | None = None
    seglens: RouteOfAnswer | None = Field(
        None, description="As in the answer, if it was stored: its route is then not computed again."
    )


class SystemMessage(RequestPart):
    role: Literal["system", "developer"]
    content: str | list[TextPart]


class ToolMessage(RequestPart):
    """The answer of a tool to another model."""

    role: Literal["tool", "function"]
    content: str | list[TextPart] | None


ChatMessage = Annotated[UserMessage | AssistantMessage | SystemMessage | ToolMessage, Field(discriminator="role")]


def unread(messages: Sequence[ChatMessage]) -> set[str]:
    """Names of the parts of the messages that have no effect on the answer: all text but the last message's, and what
    belongs to chats with other models. Of the user's earlier messages only the masks are used."""
    earlier = {f"messages.{message.role}" for message in messages[:-1]}
    fields = {f"messages.{field}" for message in messages for field in _extra(message)}
    parts = (part for message in messages for part in _parts(message))
    return earlier | fields | {f"messages.content.{field}" for part in parts for field in _extra(part)}


def _parts(message: ChatMessage) -> list[RequestPart]:
    parts = message.content if isinstance(message.content, list) else []
    urls = (part.image_url for part in parts if isinstance(part, ImagePart))
    return [*parts, *(url for url in urls if not isinstance(url, str))]


def _extra(part: RequestPart) -> list[str]:
    """Unknown fields that have a value."""
    return [name for name, value in (part.model_extra or {}).items() if value is not None and value != []]
