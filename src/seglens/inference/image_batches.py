"""Many images: encoders, questions and mask decoding run in batches over images, results come one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from seglens.core.available_memory import free_memory
from seglens.core.interruption import safe_point
from seglens.core.types import Embedding, MethodOutput
from seglens.inference.argument_checks import queries_of
from seglens.inference.encoding import encode, shares_passes
from seglens.inference.lap_clock import LapClock
from seglens.inference.opened_image import OpenedImage, Queries, System
from seglens.inference.prediction import Prediction

T = TypeVar("T")

MOST = 8  # images of a batch: more were no faster
PIXELS = 2**24  # of the pictures of a batch; a larger picture is a batch by itself
SHARE = 0.25  # of the free memory, for what a batch computes
STATES = 24  # tensors of the size of a layer's states that are alive at a time in an encoder


def batch_size(system: System, free: int | None = None) -> int:
    """How many images share a pass: 1 where the method's reader takes one at a time, at most `MOST`, and no more than
    fit into a share of the `free` bytes (by default those of the device now)."""
    if not shares_passes(system):
        return 1
    free = _free(system.backbone.device) if free is None else free
    return MOST if free is None else max(1, min(MOST, int(free * SHARE) // bytes_per_image(system)))


def bytes_per_image(system: System) -> int:
    """An upper estimate of what one image of a batch takes while it is computed: in the MLLM its states and attention
    over the prefix, and in SAM's encoder those of its patches."""
    mllm, decoder = system.backbone, system.decoder
    tokens = mllm.tiling.tokens
    taken = 4 * (STATES * tokens * mllm.feed_forward + 2 * mllm.heads * tokens**2)
    if decoder is not None:
        vision, patches = decoder.module.config.vision_config, decoder.side**2
        heads, width = getattr(vision, "num_attention_heads", 16), getattr(vision, "hidden_size", decoder.width)
        taken += 4 * (STATES * patches * width + 2 * heads * patches**2)
    return taken


def _free(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


def in_batches(items: Iterable[T], size: int, pixels: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in order: at most `size` of them and, together, at most `PIXELS` pixels, at a time."""
    batch, total = list[T](), 0
    for item in items:
        if batch and (len(batch) == size or total + pixels(item) > PIXELS):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += pixels(item)
    if batch:
        yield batch


def predictions_of_batch(
    system: System,
    images: Sequence[np.ndarray],
    queries: Sequence[str | Queries],
    each: bool | None = None,
    trust: bool = False,
) -> list[Iterator[Prediction]]:
    """Per image what `OpenedImage.predictions` gives, to rounding. The models have run when this returns; masks of the
    images' size are computed as the predictions are taken."""
    safe_point()
    opened = [OpenedImage(system, *one) for one in zip(images, encode(system, images), strict=True)]
    lists = [queries_of(one) for one in queries]
    if len(opened) == 1 or len({len(one) for one in lists}) > 1 or not lists[0]:
        return [one.predictions(some, each, trust) for one, some in zip(opened, lists, strict=True)]
    clock = LapClock(system.backbone.device, open=opened[0].opening)
    output = _output(system, opened, lists)
    clock.lap("head")
    clock.laps["head"] /= len(opened)
    drawn = zip(opened, lists, range(len(opened)), strict=True)
    return [one.drawn(some, output.image(k), _copy(system, clock), each, trust) for one, some, k in drawn]


@torch.inference_mode()
def _output(system: System, opened: Sequence[OpenedImage], queries: Sequence[Sequence[str]]) -> MethodOutput:
    put = [one.prompts(some, [None] * len(some)) for one, some in zip(opened, queries, strict=True)]
    read = system.reader.read_many([one.seen for one in opened], put)
    embeddings = [one.embedding for one in opened if one.embedding is not None]
    return system.method.decode(read, Embedding.joined(embeddings) if embeddings else None)


def _copy(system: System, clock: LapClock) -> LapClock:
    return LapClock(system.backbone.device, **clock.laps)
