"""Around every request: its id, its line in the log, its numbers, and the answer to an error that nothing caught."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from dataclasses import dataclass, field
from time import perf_counter

from seglens.serving.http.api_errors import ApiError, busy, fault, internal
from seglens.serving.http.asgi import App, Message, Receive, Scope, Send, header
from seglens.serving.http.metrics import Metrics

LOG = logging.getLogger("seglens.serving.http")
VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """Gives every request an id, answers errors that nothing caught, counts, and writes one line per request."""

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
        except ApiError as error:
            await record.answer_error(error)
        except asyncio.CancelledError:  # only the end of the server cancels a request
            await record.answer_error(busy("stopping", "the server stopped before the answer; ask another one", 5))
        except Exception:
            LOG.exception("%s failed", record.id)
            await record.answer_error(internal(record.id))
        finally:
            self.metrics.under_way.dec()
            self._write(scope, record)

    def _write(self, scope: Scope, record: _Record) -> None:
        route = getattr(scope.get("route"), "path", "other")
        seconds = perf_counter() - record.start
        self.metrics.requests.labels(route, scope["method"] if route != "other" else "any", record.status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        client = (scope.get("client") or ("-",))[0]
        LOG.info(
            "%s %s %s %s %s %.1f ms %d bytes",
            record.id,
            client,
            scope["method"],
            _one_word(scope["path"]),
            record.status,
            1e3 * seconds,
            record.bytes,
        )


@dataclass
class _Record:
    """One request, and its answer so far."""

    scope: Scope
    client_send: Send
    id: str
    start: float = field(default_factory=perf_counter)
    status: int = 499  # for a client that disconnected and gets no answer
    bytes: int = 0
    started: bool = False  # whether the answer has begun

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self.id.encode())]
        else:
            self.bytes += len(message.get("body", b""))
        await self.client_send(message)

    async def answer_error(self, error: ApiError) -> None:
        """The error as the whole answer; an answer that has begun can only end."""
        if self.started:
            return
        body = fault(error, self.id)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
        await self.send({"type": "http.response.start", "status": error.status_code, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    id = header(scope, b"x-request-id").decode("latin-1")
    return id if VALID_ID.fullmatch(id) else f"req_{secrets.token_hex(8)}"


def _one_word(text: str) -> str:
    """A path as one word of a log line: a client cannot write its own lines into the log."""
    return text[:200].encode("unicode_escape").decode("ascii").replace(" ", "%20")
