"""The application: its routes, and what stands around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.middleware.cors import CORSMiddleware

import seglens
from seglens.agent import Agent
from seglens.inference.segmenter import Segmenter
from seglens.serving.http.chat import chat_routes
from seglens.serving.http.errors import ANSWERS
from seglens.serving.http.health import watch_routes
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.middleware import AdmissionControl, AuthMiddleware, Bodies, RequestLog
from seglens.serving.http.path_variants import PathVariants
from seglens.serving.http.routes import image_routes, question_routes
from seglens.serving.http.service import Service
from seglens.serving.http.settings import Settings

DOCS, DESCRIBED = "/docs", {"/docs", "/openapi.json"}  # who may read the one needs the other
OPEN_TO_ALL = {"/healthz"}  # who watches a machine has no key
# The key is a header that a page must know to send: no cookies, and so nothing that a visitor's browser would add.
CORS: dict[str, Any] = {
    "allow_methods": ["GET", "HEAD", "POST", "DELETE"],
    "allow_headers": ["*"],
    "expose_headers": ["X-Request-Id", "Retry-After"],
    "max_age": 600,
}
SWEEPS = 4  # looks for expired images per time to live


def create_app(segmenter: Segmenter, settings: Settings) -> FastAPI:
    """The server of one model. Raises ValueError or OSError for an API key that cannot be
    used, ValueError for an origin that is none."""
    metrics, key = Metrics(), settings.key()
    service = Service(segmenter, settings, metrics)
    app = FastAPI(
        title="SegLens",
        version=seglens.__version__,
        lifespan=_life(service),
        description="Pixel-level sight for a multimodal LLM: masks for words, and its talk as before.",
        docs_url=DOCS if settings.docs else None,
        redoc_url=None,  # their scripts come from a network: only when asked
        dependencies=[Depends(HTTPBearer(auto_error=False))] if key else [],  # /docs asks; `AuthMiddleware` checks
        redirect_slashes=False,  # `PathVariants` takes them without a second request
    )
    agent = Agent(segmenter, max_new_tokens=settings.answer_tokens)
    app.state.door = door = AdmissionControl(settings.connections)
    for router in (
        image_routes(service),
        question_routes(service),
        chat_routes(service, agent),
        watch_routes(service, door),
    ):
        app.include_router(router)
    for kind, answer in ANSWERS.items():
        app.add_exception_handler(kind, answer)
    app.add_middleware(Bodies, settings=settings)  # the innermost first
    app.add_middleware(
        AuthMiddleware, door=door, key=key, open_to_all=OPEN_TO_ALL | (DESCRIBED if settings.docs else set())
    )
    app.add_middleware(RequestLog, metrics=metrics)
    app.add_middleware(PathVariants)
    if settings.origins:  # the outermost: a refusal, too, must be readable for the page that asked
        app.add_middleware(CORSMiddleware, allow_origins=settings.origins, **CORS)
    return app


def _life(service: Service) -> Any:
    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        sweeping = asyncio.create_task(_sweep(service))
        yield
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
        await asyncio.to_thread(service.close)

    return life


async def _sweep(service: Service) -> None:
    """Expired images give their memory back though nobody asks for anything."""
    while True:
        await asyncio.sleep(service.images.ttl / SWEEPS)
        service.images.sweep()
