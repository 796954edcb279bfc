"""How much of a request's body is read, and for how long."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from seglens.serving.http.api_errors import ApiError, busy
from seglens.serving.http.asgi import App, Message, Receive, Scope, Send, header
from seglens.serving.http.settings import Settings


class BodyLimits:
    """Counts the bytes of bodies while they arrive, whatever their headers state: of one request, and of all together.
    A body must arrive in time."""

    def __init__(self, app: App, settings: Settings):
        self.app, self.settings = app, settings
        self._bytes = 0  # of all bodies under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        end = asyncio.get_running_loop().time() + self.settings.body_seconds
        body = _Body(receive, self.settings.body_bytes, end)
        if int(header(scope, b"content-length") or 0) > body.max_bytes:  # h11 has checked that it is a number
            await body.refuse_size()
        bytes_here = 0

        async def counted() -> Message:
            nonlocal bytes_here
            message = await body.next()
            more = len(message.get("body", b""))
            bytes_here, self._bytes = bytes_here + more, self._bytes + more
            if self._bytes > self.settings.bodies_bytes:
                raise busy("bodies_full", "the requests that come in take all the memory there is for them; try again")
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._bytes -= bytes_here


@dataclass
class _Body:
    receive: Receive
    max_bytes: int
    end: float  # of the event loop's clock
    bytes: int = 0
    complete: bool = False

    async def next(self) -> Message:
        if self.complete:  # only the client's disconnection can follow
            return await self.receive()
        message = await self._next_in_time()
        if self.bytes > self.max_bytes:
            await self.refuse_size()
        return message

    async def _next_in_time(self) -> Message:
        try:
            async with asyncio.timeout_at(self.end):
                message = await self.receive()
        except TimeoutError:
            raise ApiError(
                408,
                "body_too_slow",
                "the body took too long to arrive; send less, or over a faster connection",
                headers={"Connection": "close"},
            ) from None
        self.bytes += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        return message

    async def refuse_size(self) -> None:
        """Raises an ApiError, after reading on for a while: a client that still sends would not read the answer."""
        while not self.complete and self.bytes <= 2 * self.max_bytes:
            await self._next_in_time()
        raise ApiError(
            413,
            "request_too_large",
            f"the request is larger than {self.max_bytes} bytes; send less, or a smaller image",
            headers={"Connection": "close"},
        )
