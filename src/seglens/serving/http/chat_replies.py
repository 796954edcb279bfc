"""What an agent replied, as a chat completion: whole, or in pieces."""

from __future__ import annotations

import json
import secrets
from time import time
from typing import Any, Literal

from seglens.agent import Reply
from seglens.backbones import before_stop
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
    """Of the answer to one request."""

    def __init__(self, service: Service, asked: ChatRequest):
        self.asked, self._service = asked, service
        self._id, self._created = f"chatcmpl-{secrets.token_hex(12)}", int(time())

    def whole(self, reply: Reply) -> bytes:
        """The answer as JSON. Encodes masks."""
        message = ChatAnswer(content=self.content(reply), seglens=self._ours(reply))
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
        """The words, and behind them what to know about them: most clients show nothing else."""
        text = before_stop(reply.text, self.asked.stops)
        return text if reply.notice is None else f"{text}\n\n({reply.notice})"

    def piece(self, delta: Delta) -> bytes:
        """An event with more of the answer."""
        return self._event(ChunkChoice(delta=delta))

    def last(self, reply: Reply) -> bytes:
        """The events behind the words: what is ours, with the reason of the end, and what it took. Encodes masks."""
        end = self._event(ChunkChoice(delta=Delta(seglens=self._ours(reply)), finish_reason=_end(reply)))
        options = self.asked.stream_options
        counted = self._event(usage=self._usage(reply)) if options and options.include_usage else b""
        return end + counted + b"data: [DONE]\n\n"

    def _event(self, *choices: ChunkChoice, usage: Usage | None = None) -> bytes:
        chunk = ChatChunk(
            id=self._id, created=self._created, model=self._service.settings.model_name, choices=[*choices], usage=usage
        )
        return f"data: {json.dumps(_spare(chunk), ensure_ascii=False)}\n\n".encode()

    def _ours(self, reply: Reply) -> TalkAnswer:
        said = reply.answer()
        return TalkAnswer(
            route=said.route,
            notice=said.notice,
            answers=said.answers,
            images=list(range(len(said.answers))),
            ignored=self.asked.ignored,
            heat_maps=heat_maps(reply.predictions) if self.asked.seglens.heat_map else None,
        )

    def _usage(self, reply: Reply) -> Usage:
        """Tokens read for the last message, its images among them, and written."""
        backbone = self._service.segmenter.backbone
        if reply.spoken is not None:
            read, written = reply.spoken.read, reply.spoken.written
        else:  # a mask is not made of tokens; the sentence that comes with it is
            read = sum(backbone.read_tokens(found.query) for found in bare(reply.predictions))
            written = len(backbone.processor.tokenizer(self.content(reply), add_special_tokens=False).input_ids)
        return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def _spare(chunk: ChatChunk) -> dict[str, Any]:
    """Without what it does not bring; what is ours keeps to its schema."""
    said = chunk.model_dump(mode="json")
    for choice in said["choices"]:
        choice["delta"] = {name: value for name, value in choice["delta"].items() if value is not None}
    return said if chunk.usage else {name: value for name, value in said.items() if name != "usage"}


def _end(reply: Reply) -> Literal["stop", "length"]:
    return "stop" if reply.spoken is None or reply.spoken.whole else "length"
