"""The messages of a talk as OpenAI's clients write them, with one field of our own: `seglens`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from seglens.core.schema import RouteTaken


class Sent(BaseModel):
    """What clients send: fields that we do not know may be there."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class TextPart(Sent):
    type: Literal["text"]
    text: str


class RefusalPart(Sent):
    """Of another model's answer."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(Sent):
    url: str = Field(min_length=1, description="A data URI, or the id of an open image.")


class ImagePart(Sent):
    type: Literal["image_url"]
    image_url: ImageUrl | Annotated[str, Field(min_length=1)]

    @property
    def image(self) -> str:
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
AnswerPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


class UserMessage(Sent):
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


class Way(Sent):
    """Of an earlier answer of ours: how it came about."""

    route: RouteTaken


class AssistantMessage(Sent):
    """An earlier answer, of this model or of another one, which may have called tools."""

    role: Literal["assistant"]
    content: str | list[AnswerPart] | None = None
    seglens: Way | None = Field(None, description="As it came, if it was kept: its way is then not looked for again.")


class SystemMessage(Sent):
    role: Literal["system", "developer"]
    content: str | list[TextPart]


class ToolMessage(Sent):
    """What a tool answered to another model."""

    role: Literal["tool", "function"]
    content: str | list[TextPart] | None


ChatMessage = Annotated[UserMessage | AssistantMessage | SystemMessage | ToolMessage, Field(discriminator="role")]


def unread(messages: Sequence[ChatMessage]) -> set[str]:
    """Names of what stands in the messages and changes no answer: all words but the last, and what belongs to other
    models' talks. Of the user's earlier words the masks are known, and nothing else."""
    earlier = {f"messages.{message.role}" for message in messages[:-1]}
    named = {f"messages.{field}" for message in messages for field in _extra(message)}
    parts = (part for message in messages for part in _parts(message))
    return earlier | named | {f"messages.content.{field}" for part in parts for field in _extra(part)}


def _parts(message: ChatMessage) -> list[Sent]:
    parts = message.content if isinstance(message.content, list) else []
    urls = (part.image_url for part in parts if isinstance(part, ImagePart))
    return [*parts, *(url for url in urls if not isinstance(url, str))]


def _extra(sent: Sent) -> list[str]:
    """Fields that we do not know, with a value."""
    return [name for name, value in (sent.model_extra or {}).items() if value is not None and value != []]
