"""The application: its routes, and what stands around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI

import seglens
from seglens.agent import Agent
from seglens.segmenter import Segmenter
from seglens.server.chat import chat_routes
from seglens.server.errors import ANSWERS
from seglens.server.gate import Bodies, Door, Guard, Recorder
from seglens.server.lenient import Lenient
from seglens.server.metrics import Metrics
from seglens.server.routes import image_routes, question_routes
from seglens.server.service import Service
from seglens.server.settings import Settings
from seglens.server.watch import watch_routes

SWEEPS = 4  # looks for expired images per time to live


def create_app(segmenter: Segmenter, settings: Settings) -> FastAPI:
    """The server of one model. Raises ValueError or OSError for an API key that cannot be used."""
    metrics = Metrics()
    service = Service(segmenter, settings, metrics)
    app = FastAPI(
        title="SegLens", version=seglens.__version__, lifespan=_life(service),
        description="Pixel-level sight for a multimodal LLM: masks for words, and its talk as before.",
        docs_url=None, redoc_url=None,  # both would fetch their scripts from a network
        redirect_slashes=False,  # `Lenient` takes them without a second request
    )  # fmt: skip
    agent = Agent(segmenter, max_new_tokens=settings.answer_tokens)
    app.state.door = door = Door(settings.connections)
    for router in (
        image_routes(service),
        question_routes(service),
        chat_routes(service, agent),
        watch_routes(service, door),
    ):
        app.include_router(router)
    for kind, answer in ANSWERS.items():
        app.add_exception_handler(kind, answer)
    key = settings.key()
    app.add_middleware(Bodies, settings=settings)  # the innermost first
    app.add_middleware(Guard, door=door, key=key)
    app.add_middleware(Recorder, metrics=metrics)
    app.add_middleware(Lenient)
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
