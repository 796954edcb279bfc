"""Real servers on loopback."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image

from seglens.core.png_files import png_bytes
from seglens.inference.segmenter import Segmenter
from seglens.serving.http.app import create_app
from seglens.serving.http.process import RunningServer
from seglens.serving.http.schema import TalkAnswer
from seglens.serving.http.settings import Settings


@dataclass
class Served:
    """A server, and a client of it."""

    running: RunningServer
    client: httpx.Client

    @property
    def address(self) -> str:
        return self.running.address


Serve = Callable[..., Served]


@contextmanager
def served(segmenter: Segmenter, **settings: object) -> Iterator[Served]:
    chosen = Settings.model_validate({"port": 0, **settings})
    running = RunningServer(create_app(segmenter, chosen), chosen)
    running.start()
    try:
        with httpx.Client(base_url=running.address, timeout=60, trust_env=False) as client:
            yield Served(running, client)
    finally:
        running.stop()


def user_message(text: str, *images: str) -> Any:
    """A user's message to a chat."""
    pictures = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}


def as_uri(image: np.ndarray) -> str:
    """Pixels as a request brings them."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(Image.fromarray(image))).decode()


def ours(message: Any) -> TalkAnswer:
    """The extension, by our own schema: typed, and nothing unknown in it."""
    return TalkAnswer.model_validate(message.seglens)


def noise(height: int, width: int, seed: int = 0) -> bytes:
    """A PNG that no compression makes small."""
    return png_bytes(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)))
