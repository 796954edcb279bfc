"""uvicorn's connection with a time limit: for clients that send nothing, send a header very slowly, or do not read."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

CHECKS = 4  # per time limit


class IdleTimeoutProtocol(asyncio.Protocol):
    """Passes everything on. Closes a connection on which no request was under way for `seconds` (uvicorn itself waits
    without limit for the rest of a header), and aborts one that reads nothing of an answer for as long."""

    def __init__(self, seconds: float, **options: Any):
        self._inner, self._seconds = H11Protocol(**options), seconds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._cycle: Any = None  # the last request
        self._last_active = self._loop.time()
        self._check_timer: asyncio.TimerHandle | None = None
        self._abort_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._inner.connection_made(transport)
        self._check_later()

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> None:
        self._inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        for timer in (self._check_timer, self._abort_timer):
            if timer is not None:
                timer.cancel()
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        self._abort_timer = self._loop.call_later(self._seconds, self._abort)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._inner.resume_writing()

    def _check_later(self) -> None:
        self._check_timer = self._loop.call_later(self._seconds / CHECKS, self._check)

    def _check(self) -> None:
        cycle = self._inner.cycle
        if cycle is not None and (cycle is not self._cycle or not cycle.response_complete):
            self._cycle, self._last_active = cycle, self._loop.time()
        if self._loop.time() - self._last_active < self._seconds:
            return self._check_later()
        assert self._transport is not None
        self._transport.close()
        self._abort_timer = self._loop.call_later(
            self._seconds, self._abort
        )  # closing waits until the last bytes are sent

    def _abort(self) -> None:
        assert self._transport is not None
        self._transport.abort()
