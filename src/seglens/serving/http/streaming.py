"""An answer while the model writes it: from the model's thread to one client, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from seglens.agent import Reply
from seglens.serving.http.chat_replies import CompletionWriter
from seglens.serving.http.completions import Delta
from seglens.serving.http.errors import fault_of
from seglens.serving.http.service import Service


class PieceQueue:
    """Pieces of an answer, from the model's thread to the event loop in which this object is created. The model never
    waits for a client: pieces that are not sent yet wait here, and every answer has an end."""

    def __init__(self) -> None:
        self._loop, self._pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        self._first: str | None = None

    def put(self, piece: str) -> None:
        """Called from the model's thread."""
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    def end(self) -> None:
        """Called from the event loop."""
        self._pieces.put_nowait(None)

    async def begin(self, answer: asyncio.Task[list[Reply]]) -> None:
        """Wait for the first piece. Raises what the answer raised, if that came first: as long as nothing was sent, an
        error is answered by a status."""
        self._first = await self._pieces.get()
        if self._first is None:
            answer.result()

    async def pieces(self) -> AsyncIterator[str]:
        """After `begin`, until the end."""
        piece = self._first
        while piece is not None:
            yield piece
            piece = await self._pieces.get()


async def events(
    service: Service, writer: CompletionWriter, queue: PieceQueue, answer: asyncio.Task[list[Reply]], request_id: str
) -> AsyncIterator[bytes]:
    """After `PieceQueue.begin`. An error after the first piece is sent as an event, as the status has been sent."""
    yield writer.piece(Delta(role="assistant", content=""))
    sent = ""
    async for piece in queue.pieces():
        sent += piece
        yield writer.piece(Delta(content=piece))
    try:
        (reply,) = await answer
        rest = writer.content(reply).removeprefix(sent)
        ending = await service.in_worker(partial(writer.last, reply))
    except Exception as error:
        yield b"data: " + fault_of(error, request_id) + b"\n\n"
        return
    if rest:
        yield writer.piece(Delta(content=rest))
    yield ending
