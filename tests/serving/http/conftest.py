"""Servers with the embedded model."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack

import openai
import pytest
from PIL import Image

from http_server import Serve, Served, served
from seglens.core.png_files import png_bytes
from seglens.core.types import Sample
from seglens.inference.segmenter import Segmenter


@pytest.fixture(scope="session")
def server(segmenter: Segmenter) -> Iterator[Served]:
    """One for all tests that need no settings of their own."""
    with served(segmenter) as server:
        yield server


@pytest.fixture(scope="session")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def serve(segmenter: Segmenter) -> Iterator[Serve]:
    """Starts servers with settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(served(segmenter, **settings))


@pytest.fixture(scope="session")
def png(scene: Sample) -> bytes:
    return png_bytes(Image.fromarray(scene.image))


@pytest.fixture(scope="session")
def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
