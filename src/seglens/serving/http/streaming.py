"""An answer while it is made: from the model's thread to one client, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from seglens.agent import Reply
from seglens.serving.http.chat_replies import CompletionWriter
from seglens.serving.http.completions import Delta
from seglens.serving.http.errors import fault_of
from seglens.serving.http.service import Service


class Wire:
    """Pieces of an answer, from the model's thread to the event loop that this is made in. The model never waits for a
    client: what is not read yet lies here, and an answer has an end."""

    def __init__(self) -> None:
        self._loop, self._pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        self._first: str | None = None

    def tell(self, piece: str) -> None:
        """From the model's thread."""
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    def end(self) -> None:
        """From the event loop."""
        self._pieces.put_nowait(None)

    async def begin(self, answer: asyncio.Task[list[Reply]]) -> None:
        """Wait for the first piece. Raises what the answer raised, if that came first: a request that is refused is
        answered by a status, as long as nothing was sent."""
        self._first = await self._pieces.get()
        if self._first is None:
            answer.result()

    async def pieces(self) -> AsyncIterator[str]:
        """After `begin`; to the end."""
        piece = self._first
        while piece is not None:
            yield piece
            piece = await self._pieces.get()


async def events(
    service: Service, write: CompletionWriter, wire: Wire, answer: asyncio.Task[list[Reply]], request_id: str
) -> AsyncIterator[bytes]:
    """After `Wire.begin`. What goes wrong behind the first piece is told as an event: the status has been sent."""
    yield write.piece(Delta(role="assistant", content=""))
    told = ""
    async for piece in wire.pieces():
        told += piece
        yield write.piece(Delta(content=piece))
    try:
        (reply,) = await answer
        rest = write.content(reply).removeprefix(told)
        ending = await service.by_hand(partial(write.last, reply))
    except Exception as error:
        yield b"data: " + fault_of(error, request_id) + b"\n\n"
        return
    if rest:
        yield write.piece(Delta(content=rest))
    yield ending
