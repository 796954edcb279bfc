"""The application: its routes and its middleware."""

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
from seglens.serving.http.admission import AdmissionControl, AuthMiddleware
from seglens.serving.http.body_limits import BodyLimits
from seglens.serving.http.chat import chat_routes
from seglens.serving.http.errors import HANDLERS
from seglens.serving.http.health import health_routes
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.path_variants import PathVariants
from seglens.serving.http.request_log import RequestLog
from seglens.serving.http.routes import image_routes, question_routes
from seglens.serving.http.service import Service
from seglens.serving.http.settings import Settings

DOCS, DOCS_PATHS = "/docs", {"/docs", "/openapi.json"}  # the first loads the second
WITHOUT_KEY = {"/healthz"}  # monitoring programs have no key
# The key is a header that a page must know to send: no cookies, and so nothing that a visitor's browser would add.
CORS: dict[str, Any] = {
    "allow_methods": ["GET", "HEAD", "POST", "DELETE"],
    "allow_headers": ["*"],
    "expose_headers": ["X-Request-Id", "Retry-After"],
    "max_age": 600,
}
SWEEPS = 4  # checks for expired images per time to live


def create_app(segmenter: Segmenter, settings: Settings) -> FastAPI:
    """The server of one model. Raises ValueError or OSError for an API key that cannot be used, ValueError for an
    invalid origin."""
    metrics, key = Metrics(), settings.key()
    service = Service(segmenter, settings, metrics)
    app = FastAPI(
        title="SegLens",
        version=seglens.__version__,
        lifespan=_lifespan(service),
        description="Pixel-level sight for a multimodal LLM: masks for words, and its chat as before.",
        docs_url=DOCS if settings.docs else None,
        redoc_url=None,  # the scripts of these pages come from a CDN: only if they are switched on
        dependencies=[Depends(HTTPBearer(auto_error=False))] if key else [],  # for /docs; `AuthMiddleware` checks it
        redirect_slashes=False,  # `PathVariants` accepts them without a second request
    )
    agent = Agent(segmenter, max_new_tokens=settings.answer_tokens)
    app.state.admission = admission = AdmissionControl(settings.connections)
    for router in (
        image_routes(service),
        question_routes(service),
        chat_routes(service, agent),
        health_routes(service, admission),
    ):
        app.include_router(router)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(BodyLimits, settings=settings)  # the innermost first
    app.add_middleware(
        AuthMiddleware,
        admission=admission,
        key=key,
        without_key=WITHOUT_KEY | (DOCS_PATHS if settings.docs else set()),
    )
    app.add_middleware(RequestLog, metrics=metrics)
    app.add_middleware(PathVariants)
    if settings.origins:  # the outermost: the page must be able to read errors, too
        app.add_middleware(CORSMiddleware, allow_origins=settings.origins, **CORS)
    return app


def _lifespan(service: Service) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        sweeping = asyncio.create_task(_sweep(service))
        yield
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
        await asyncio.to_thread(service.close)

    return lifespan


async def _sweep(service: Service) -> None:
    """Free the memory of expired images, also while no request comes."""
    while True:
        await asyncio.sleep(service.images.ttl / SWEEPS)
        service.images.sweep()
