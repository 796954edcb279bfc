"""Which requests are admitted: those with the API key, while the server is neither full nor about to stop."""

from __future__ import annotations

import hmac
from collections.abc import Container

from seglens.serving.http.api_errors import ApiError, busy
from seglens.serving.http.asgi import App, Receive, Scope, Send, header


class AdmissionControl:
    """How many requests are under way, and whether more are admitted."""

    def __init__(self, max_requests: int):
        self.max_requests, self.requests, self.open = max_requests, 0, True

    def close(self) -> None:
        """Admit no more requests. Those under way are still answered."""
        self.open = False

    def check(self) -> None:
        """Raises an ApiError (503) when no request is admitted."""
        if not self.open:
            raise busy("stopping", "the server is about to stop and takes no new work; ask another one", 5)
        if self.requests >= self.max_requests:
            raise busy(
                "too_many_requests", f"{self.max_requests} requests are under way, the most there may be; try again"
            )


class AuthMiddleware:
    """Admits requests: those that `admission` lets in and that have the key, where one is set. The paths in
    `without_key` are open to every client."""

    def __init__(self, app: App, admission: AdmissionControl, key: str | None, without_key: Container[str]):
        self.app, self.admission, self.key, self.without_key = app, admission, key, without_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.without_key:
            return await self.app(scope, receive, send)
        self._check_key(scope)
        self.admission.check()
        self.admission.requests += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.admission.requests -= 1

    def _check_key(self, scope: Scope) -> None:
        if self.key is None:
            return
        scheme, _, key = header(scope, b"authorization").partition(b" ")
        # always compared in full, so that the time it takes tells nothing about the right key
        same = hmac.compare_digest(key.strip(), self.key.encode())
        if scheme.lower() != b"bearer" or not same:
            raise ApiError(
                401,
                "invalid_api_key",
                "this server asks for a key: send 'Authorization: Bearer KEY'",
                headers={"WWW-Authenticate": "Bearer"},
            )
