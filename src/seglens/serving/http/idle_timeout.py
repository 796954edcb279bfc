"""uvicorn's connection, with an end to its patience: for clients that say nothing, dribble, or do not read."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

LOOKS = 4  # per time of patience


class Patient(asyncio.Protocol):
    """Passes everything on. Closes a connection on which, for `seconds`, no request was under way (uvicorn by itself
    waits for ever for the rest of a header), and breaks one that takes nothing of an answer for as long."""

    def __init__(self, seconds: float, **given: Any):
        self._inner, self._seconds = H11Protocol(**given), seconds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._cycle: Any = None  # the request that was seen last
        self._since = self._loop.time()
        self._look: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._inner.connection_made(transport)
        self._look_later()

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> None:
        self._inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        for timer in (self._look, self._stuck):
            if timer is not None:
                timer.cancel()
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        self._stuck = self._loop.call_later(self._seconds, self._break)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
        self._inner.resume_writing()

    def _look_later(self) -> None:
        self._look = self._loop.call_later(self._seconds / LOOKS, self._watch)

    def _watch(self) -> None:
        cycle = self._inner.cycle
        if cycle is not None and (cycle is not self._cycle or not cycle.response_complete):
            self._cycle, self._since = cycle, self._loop.time()
        if self._loop.time() - self._since < self._seconds:
            return self._look_later()
        assert self._transport is not None
        self._transport.close()
        self._stuck = self._loop.call_later(self._seconds, self._break)  # closing waits for what was written last

    def _break(self) -> None:
        assert self._transport is not None
        self._transport.abort()
