"""Chat completions as OpenAI's clients write and read them, with one more field: `seglens`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from seglens.serving.http.messages import ChatMessage, RequestPart, unread
from seglens.serving.http.schema import TalkAnswer, TalkRequest
from seglens.serving.http.unsupported import HINTS


class StreamOptions(RequestPart):
    """Of a streamed answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = Field(False, description="Report the usage in a last event.")
    include_obfuscation: Literal[False] | None = Field(None, description="Random characters are never added.")


Stop = Annotated[str, Field(min_length=1)]


class ChatRequest(RequestPart):
    """The chat so far. Of OpenAI's other parameters, those without effect here are accepted, and no others."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = False
    max_tokens: int | None = Field(
        None, ge=1, description="Most tokens of the answer; the server's own limit holds, too."
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="The same under its newer name.")
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = Field(
        None, description="Texts: the answer ends before the first of them."
    )
    seglens: TalkRequest = TalkRequest()

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def ignored(self) -> list[str]:
        """Names of the parts of the request that have no effect on the answer."""
        return sorted({*(self.model_extra or {}).keys() & HINTS, *unread(self.messages)})


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


class Usage(BaseModel):
    """Tokens of the MLLM: of the last message, with its images, and of the answer. A mask is not made of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """An answer to the last message."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


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
    usage: Usage | None = Field(None, description="In the last event, whose choices are empty; only on request.")
