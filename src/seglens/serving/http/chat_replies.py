"""An agent's reply as a chat completion: whole, or in pieces."""

from __future__ import annotations

import json
import secrets
from time import time
from typing import Any, Literal

from seglens.agent import Reply
from seglens.backbones import before_stop
from seglens.core.geometry import Frame
from seglens.inference.compressed_predictions import bare
from seglens.serving.http.completions import (
    ChatAnswer,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    Usage,
)
from seglens.serving.http.routes import heat_maps
from seglens.serving.http.schema import TalkAnswer
from seglens.serving.http.service import Service


class CompletionWriter:
    """Writes the answer to one request."""

    def __init__(self, service: Service, request: ChatRequest):
        self.request, self._service = request, service
        self._id, self._created = f"chatcmpl-{secrets.token_hex(12)}", int(time())

    def whole(self, reply: Reply) -> bytes:
        """The answer as JSON. Encodes masks."""
        message = ChatAnswer(content=self.content(reply), seglens=self._seglens(reply))
        return (
            ChatCompletion(
                id=self._id,
                created=self._created,
                model=self._service.settings.model_name,
                choices=[Choice(message=message, finish_reason=_end(reply))],
                usage=self._usage(reply),
            )
            .model_dump_json()
            .encode()
        )

    def content(self, reply: Reply) -> str:
        """The text, followed by the notice about it: most clients show nothing else."""
        text = before_stop(reply.text, self.request.stops)
        return text if reply.notice is None else f"{text}\n\n({reply.notice})"

    def piece(self, delta: Delta) -> bytes:
        """An event with more of the answer."""
        return self._event(ChunkChoice(delta=delta))

    def last(self, reply: Reply) -> bytes:
        """The events after the text: the field `seglens`, with the reason of the end, and the usage. Encodes masks."""
        end = self._event(ChunkChoice(delta=Delta(seglens=self._seglens(reply)), finish_reason=_end(reply)))
        options = self.request.stream_options
        usage = self._event(usage=self._usage(reply)) if options and options.include_usage else b""
        return end + usage + b"data: [DONE]\n\n"

    def _event(self, *choices: ChunkChoice, usage: Usage | None = None) -> bytes:
        chunk = ChatChunk(
            id=self._id, created=self._created, model=self._service.settings.model_name, choices=[*choices], usage=usage
        )
        return f"data: {json.dumps(_without_empty(chunk), ensure_ascii=False)}\n\n".encode()

    def _seglens(self, reply: Reply) -> TalkAnswer:
        answer = reply.answer()
        return TalkAnswer(
            route=answer.route,
            notice=answer.notice,
            answers=answer.answers,
            images=list(range(len(answer.answers))),
            ignored=self.request.ignored,
            heat_maps=heat_maps(reply.predictions) if self.request.seglens.heat_map else None,
        )

    def _usage(self, reply: Reply) -> Usage:
        """Tokens read for the last message, its images among them, and written."""
        backbone = self._service.segmenter.backbone
        if reply.spoken is not None:
            read, written = reply.spoken.read, reply.spoken.written
        else:  # a mask is not made of tokens, but the sentence that comes with it is
            masks = ((one.query, Frame(*one.image.shape[:2])) for one in bare(reply.predictions))
            read = sum(backbone.read_tokens(query, frame) for query, frame in masks)
            written = len(backbone.processor.tokenizer(self.content(reply), add_special_tokens=False).input_ids)
        return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def _without_empty(chunk: ChatChunk) -> dict[str, Any]:
    """Without the fields that it does not contain; the field `seglens` keeps its whole schema."""
    fields = chunk.model_dump(mode="json")
    for choice in fields["choices"]:
        choice["delta"] = {name: value for name, value in choice["delta"].items() if value is not None}
    return fields if chunk.usage else {name: value for name, value in fields.items() if name != "usage"}


def _end(reply: Reply) -> Literal["stop", "length"]:
    return "stop" if reply.spoken is None or reply.spoken.whole else "length"
