"""Other forms of an address that programs request: HEAD as GET without its body, a slash at its end."""

from __future__ import annotations

from seglens.serving.http.asgi import App, Receive, Scope, Send


class PathVariants:
    """Passes a request on in the one form that the application knows. The connection leaves out the body of an answer
    to HEAD, but not its length."""

    def __init__(self, app: App):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope = {**scope, "method": method, "path": scope["path"].rstrip("/") or "/"}
        await self.app(scope, receive, send)
