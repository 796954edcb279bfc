"""Chat completions as OpenAI's clients write and read them, with one field of our own: `seglens`.

What we do not heed may be sent all the same, and is named in the answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from seglens.schema import RouteTaken, TalkAnswer, TalkRequest, Whole


class Sent(BaseModel):
    """What clients send: fields that we do not know may be there."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class TextPart(Sent):
    type: Literal["text"]
    text: str


class ImageUrl(Sent):
    url: str = Field(min_length=1, description="A data URI, or the id of an open image.")


class ImagePart(Sent):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


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
        return [part.image_url.url for part in self.content if isinstance(part, ImagePart)]


class Way(Sent):
    """Of an earlier answer of ours: how it came about."""

    route: RouteTaken


class AssistantMessage(Sent):
    role: Literal["assistant"]
    content: str | list[TextPart] | None = None
    seglens: Way | None = Field(None, description="As it came, if it was kept: its way is then not looked for again.")


class SystemMessage(Sent):
    role: Literal["system", "developer"]
    content: str | list[TextPart]


ChatMessage = Annotated[UserMessage | AssistantMessage | SystemMessage, Field(discriminator="role")]


class ChatRequest(Sent):
    """The talk so far. Its first user message brings the image; a later one may bring another."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = False
    max_tokens: int | None = Field(None, ge=1, description="Of the answer; the server's own limit holds too.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same under its newer name.")
    n: Annotated[Literal[1] | None, Whole] = None
    seglens: TalkRequest = TalkRequest()

    @property
    def ignored(self) -> list[str]:
        """Names of what is sent and not heeded."""
        system = {"messages.system"} if any(isinstance(m, SystemMessage) for m in self.messages) else set[str]()
        return sorted({*(self.model_extra or {}), *system})


class ChatAnswer(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    seglens: TalkAnswer


class Choice(BaseModel):
    index: Literal[0] = 0
    message: ChatAnswer
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatCompletion(BaseModel):
    """There is no `usage`: nothing here is billed, and masks are not made of tokens."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    seglens: TalkAnswer | None = None


class ChunkChoice(BaseModel):
    index: Literal[0] = 0
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]


def as_events(whole: ChatCompletion) -> bytes:
    """The answer as server-sent events: its words, then what is ours with the reason of its end."""
    choice = whole.choices[0]
    deltas = [Delta(role="assistant", content="")]
    deltas += [Delta(content=word) for word in choice.message.content.splitlines(keepends=True)]
    chunks = [ChunkChoice(delta=delta) for delta in deltas]
    chunks.append(ChunkChoice(delta=Delta(seglens=choice.message.seglens), finish_reason=choice.finish_reason))
    said = [
        ChatChunk(id=whole.id, created=whole.created, model=whole.model, choices=[chunk]).model_dump_json(
            exclude_none=True
        )
        for chunk in chunks
    ]
    return "".join(f"data: {one}\n\n" for one in [*said, "[DONE]"]).encode()
