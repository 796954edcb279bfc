"""Images run through the models' image encoders, several in one pass where the models allow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from seglens.backbones import Backbone
from seglens.core.types import Embedding
from seglens.decoders import MaskDecoder
from seglens.inference.lap_clock import LapClock
from seglens.inference.side_by_side import side_by_side
from seglens.methods.base import EncodedImage


@runtime_checkable
class Encoders(Protocol):
    """The parts of a segmenter that encode images."""

    backbone: Backbone
    decoder: MaskDecoder | None
    reader: Any


@dataclass(frozen=True)
class Encoded:
    """An image as the MLLM and the mask decoder (if there is one) encoded it, and its share of the time."""

    seen: EncodedImage
    embedding: Embedding | None
    milliseconds: float


def shares_passes(system: Encoders) -> bool:
    """Whether questions about several images are read in one pass: the frozen MLLM at one layer, canvases of one
    tile."""
    return isinstance(system.reader, Backbone) and system.reader.batches


def encode(system: Encoders, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Encoded]:
    """Each as if it were alone, to rounding."""
    clock, reader, decoder = LapClock(system.backbone.device), system.reader, system.decoder

    def read() -> Sequence[EncodedImage]:
        return reader.open_many(images) if isinstance(reader, Backbone) else [reader.open(image) for image in images]

    if decoder is None:
        seen, embedding = read(), None
    else:
        frames = [system.backbone.canvas.frame(image) for image in images]
        seen, embedding = side_by_side(read, partial(decoder.encode_many, images, frames), decoder.device)
    clock.lap("open")
    milliseconds = clock.laps["open"] / len(images)
    return [Encoded(one, None if embedding is None else embedding.image(k), milliseconds) for k, one in enumerate(seen)]
