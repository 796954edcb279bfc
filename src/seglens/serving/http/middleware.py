"""What stands around every request, as plain ASGI: its id, its line in the log, who may come in, and how much of a body
is read, and for how long."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Container, MutableMapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from seglens.serving.http.api_errors import ApiError, busy, fault, internal
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOG = logging.getLogger("seglens.serving.http")
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """Gives every request an id, answers what nobody caught, counts, and writes one line."""

    def __init__(self, app: App, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        record = _Record(scope, send, _request_id(scope))
        scope["state"] = {**scope.get("state", {}), "request_id": record.id}
        self.metrics.under_way.inc()
        try:
            await self.app(scope, receive, record.send)
        except ApiError as refusal:
            await record.refuse(refusal)
        except Exception:
            LOG.exception("%s failed", record.id)
            await record.refuse(internal(record.id))
        finally:
            self.metrics.under_way.dec()
            self._write(scope, record)

    def _write(self, scope: Scope, record: _Record) -> None:
        route = getattr(scope.get("route"), "path", "other")
        taken = perf_counter() - record.started
        self.metrics.requests.labels(route, scope["method"] if route != "other" else "any", record.status).inc()
        self.metrics.seconds.labels(route).observe(taken)
        client = (scope.get("client") or ("-",))[0]
        LOG.info(
            "%s %s %s %s %s %.1f ms %d bytes",
            record.id,
            client,
            scope["method"],
            _one_line(scope["path"]),
            record.status,
            1e3 * taken,
            record.bytes,
        )


@dataclass
class _Record:
    """One request on its way."""

    scope: Scope
    answer: Send
    id: str
    started: float = field(default_factory=perf_counter)
    status: int = 499  # a client that left is answered nothing
    bytes: int = 0
    begun: bool = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self.id.encode())]
        else:
            self.bytes += len(message.get("body", b""))
        await self.answer(message)

    async def refuse(self, refusal: ApiError) -> None:
        if not self.begun:  # a stream that broke can only end
            await refuse(refusal, self.id, self.send)


async def refuse(refusal: ApiError, request_id: str, send: Send) -> None:
    """Send a refusal as the whole answer."""
    body = fault(refusal.status_code, refusal.code, refusal.message, request_id, refusal.param)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in (refusal.headers or {}).items()]
    await send({"type": "http.response.start", "status": refusal.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class AdmissionControl:
    """How many requests are inside, and whether more may come."""

    def __init__(self, most: int):
        self.most, self.inside, self.open = most, 0, True

    def close(self) -> None:
        """Who is inside is still answered."""
        self.open = False

    def check(self) -> None:
        """Raises a Refusal (503) when nobody may enter."""
        if not self.open:
            raise busy("stopping", "the server is about to stop and takes no new work; ask another one", 5)
        if self.inside >= self.most:
            raise busy("too_many_requests", f"{self.most} requests are under way, the most there may be; try again")


class AuthMiddleware:
    """Lets in whom the door lets in, and, where a key is set, only those who know it; to some paths, anybody."""

    def __init__(self, app: App, door: AdmissionControl, key: str | None, open_to_all: Container[str]):
        self.app, self.door, self.key, self.open_to_all = app, door, key, open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.open_to_all:
            return await self.app(scope, receive, send)
        self._check_key(scope)
        self.door.check()
        self.door.inside += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.door.inside -= 1

    def _check_key(self, scope: Scope) -> None:
        if self.key is None:
            return
        said = _header(scope, b"authorization")
        scheme, _, given = said.partition(b" ")
        # compared in full whatever was given: the time says nothing of the key
        same = hmac.compare_digest(given.strip(), self.key.encode())
        if scheme.lower() != b"bearer" or not same:
            raise ApiError(
                401,
                "invalid_api_key",
                "this server asks for a key: send 'Authorization: Bearer KEY'",
                headers={"WWW-Authenticate": "Bearer"},
            )


class Bodies:
    """Counts bodies while they come in, whatever their headers promise: of one request, of all, and in time."""

    def __init__(self, app: App, settings: Settings):
        self.app, self.settings = app, settings
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body = _Body(receive, self.settings.body_bytes, asyncio.get_running_loop().time() + self.settings.body_seconds)
        if int(_header(scope, b"content-length") or 0) > body.most:  # h11 has seen to it that it is a number
            await body.refuse_size()
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await body.next()
            more = len(message.get("body", b""))
            taken, self._held = taken + more, self._held + more
            if self._held > self.settings.bodies_bytes:
                raise busy("bodies_full", "the requests that come in take all the memory there is for them; try again")
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._held -= taken


@dataclass
class _Body:
    receive: Receive
    most: int
    until: float  # of the event loop's clock
    seen: int = 0
    whole: bool = False

    async def next(self) -> Message:
        if self.whole:  # what follows is only the client's leaving
            return await self.receive()
        message = await self._in_time()
        if self.seen > self.most:
            await self.refuse_size()
        return message

    async def _in_time(self) -> Message:
        try:
            async with asyncio.timeout_at(self.until):
                message = await self.receive()
        except TimeoutError:
            raise ApiError(
                408,
                "body_too_slow",
                "the body took too long to arrive; send less, or over a faster line",
                headers={"Connection": "close"},
            ) from None
        self.seen += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        return message

    async def refuse_size(self) -> None:
        """Raises a Refusal, after reading on for a while: a client that is still sending would not hear it."""
        while not self.whole and self.seen <= 2 * self.most:
            await self._in_time()
        raise ApiError(
            413,
            "request_too_large",
            f"the request is larger than {self.most} bytes; send less, or a smaller image",
            headers={"Connection": "close"},
        )


def _request_id(scope: Scope) -> str:
    given = _header(scope, b"x-request-id").decode("latin-1")
    return given if SANE_ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _one_line(text: str) -> str:
    """A path as one word of a log: nobody writes lines of his own into it."""
    return text[:200].encode("unicode_escape").decode("ascii").replace(" ", "%20")
