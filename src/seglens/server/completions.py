"""Chat completions as OpenAI's clients write and read them, with one field of our own: `seglens`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from seglens.schema import TalkAnswer, TalkRequest
from seglens.server.messages import ChatMessage, Sent, unread
from seglens.server.unsupported import HINTS


class ChatRequest(Sent):
    """The talk so far. Of OpenAI's other parameters, those that change nothing here are taken, and no others."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = False
    max_tokens: int | None = Field(None, ge=1, description="Of the answer; the server's own limit holds too.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same under its newer name.")
    seglens: TalkRequest = TalkRequest()

    @property
    def ignored(self) -> list[str]:
        """Names of what is sent and changes no answer."""
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
