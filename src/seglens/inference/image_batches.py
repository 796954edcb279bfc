"""Many images: encoders, questions and mask decoding run in batches over images, results come one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from seglens.core.available_memory import free_memory
from seglens.core.batched_parts import joined, of_image
from seglens.core.interruption import safe_point
from seglens.core.object_memory import compact
from seglens.core.types import Embedding, MethodOutput
from seglens.inference.argument_checks import queries_of
from seglens.inference.encoding import encode, shares_passes
from seglens.inference.lap_clock import LapClock
from seglens.inference.opened_image import OpenedImage, Queries, System
from seglens.inference.prediction import Prediction

T = TypeVar("T")

MOST = 8  # images of a batch: more were no faster
ROWS = 2048  # tokens of a batch on a CPU: a matrix of that size fills it, and larger ones leave its cache
PIXELS = 2**24  # of the pictures of a batch; a larger picture is a batch by itself
SHARE = 0.25  # of the free memory, for what a batch computes
STATES = 24  # tensors of the size of a layer's states that are alive at a time in an encoder


def batch_size(system: System, free: int | None = None) -> int:
    """How many images share a pass: `useful_size`, but no more than fit into a share of the `free` bytes (by default
    those of the device now)."""
    useful = useful_size(system)
    free = _free(system.backbone.device) if free is None and useful > 1 else free
    return useful if free is None else max(1, min(useful, int(free * SHARE) // bytes_per_image(system)))


def useful_size(system: System) -> int:
    """From how many images in a pass a model gains, whatever the memory is: 1 where the method's reader takes one at a
    time, at most `MOST`, and no more than fill a CPU. The same in every process that runs the model."""
    if not shares_passes(system):
        return 1
    return MOST if system.backbone.device.type != "cpu" else max(1, min(MOST, ROWS // rows_per_image(system)))


def rows_per_image(system: System) -> int:
    """Tokens in the encoder that has more of them."""
    return max(system.backbone.tiling.tokens, 0 if system.decoder is None else system.decoder.side**2)


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
    """The items in order: of the first `size`, of the next `size`, ... those that together have at most `PIXELS`
    pixels, at a time."""
    batch, total = list[T](), 0
    for number, item in enumerate(items):
        if batch and (number % size == 0 or total + pixels(item) > PIXELS):
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
    kinds: Sequence[Sequence[str | None]] | None = None,
    each: bool | None = None,
    trust: bool = False,
) -> list[Iterator[Prediction]]:
    """Per image what `OpenedImage.predictions` gives, to rounding. The models have run when this returns; masks of the
    images' size are computed as the predictions are taken. `kinds` as in `OpenedImage.predictions_as`."""
    safe_point()
    lists = [queries_of(one) for one in queries]
    kinds = kinds or [[None] * len(some) for some in lists]
    opened = [OpenedImage(system, *one) for one in zip(images, encode(system, images), strict=True)]
    return predictions_of_opened(system, opened, lists, kinds, each, trust, keep=False)


def predictions_of_opened(
    system: System,
    opened: Sequence[OpenedImage],
    lists: Sequence[Sequence[str]],
    kinds: Sequence[Sequence[str | None]],
    each: bool | None = None,
    trust: bool = False,
    keep: bool = True,
) -> list[Iterator[Prediction]]:
    """`predictions_of_batch` about images that are open; `keep`: what the method computes of an image stays for its
    next questions."""
    prompts = [one.prompts(some, kind) for one, some, kind in zip(opened, lists, kinds, strict=True)]
    if len(opened) == 1 or not shares_passes(system) or not _alike(lists):
        single = zip(opened, lists, prompts, strict=True)
        return [one.answered(some, texts, each, trust) for one, some, texts in single]
    clock = LapClock(system.backbone.device, open=opened[0].opening)
    output = _output(system, opened, _padded(prompts), clock, keep)
    laps = {name: spent if name == "open" else spent / len(opened) for name, spent in clock.laps.items()}
    clocks = (LapClock(system.backbone.device, **laps) for _ in opened)
    drawn = zip(opened, lists, clocks, strict=True)
    return [one.drawn(some, output.image(k), own, each, trust) for k, (one, some, own) in enumerate(drawn)]


def _alike(lists: Sequence[Sequence[str]]) -> bool:
    """Whether a pass over as many questions about each image as about the one with the most is at least half full."""
    counts = [len(some) for some in lists]
    return 2 * sum(counts) >= len(counts) * max(counts) > 0


def _padded(prompts: Sequence[Sequence[str]]) -> list[list[str]]:
    """As many about each image: questions do not see each other, so that repeated ones change no other."""
    longest = max(prompts, key=len)
    return [[*some, *longest[len(some) :]] for some in prompts]


@torch.inference_mode()
def _output(
    system: System, opened: Sequence[OpenedImage], prompts: Sequence[Sequence[str]], clock: LapClock, keep: bool
) -> MethodOutput:
    read = system.reader.read_many([one.seen for one in opened], prompts)
    clock.lap("read")
    embeddings = [one.embedding for one in opened if one.embedding is not None]
    precomputed = _precomputed(system, opened, read, keep)
    output = system.method.decode(read, Embedding.joined(embeddings) if embeddings else None, precomputed)
    clock.lap("head")
    return output


def _precomputed(system: System, opened: Sequence[OpenedImage], read: Any, keep: bool) -> Any:
    """What no question changes, of all images: kept from their earlier questions, or computed."""
    kept = [one.precomputed for one in opened]
    if all(one is not None for one in kept):
        return joined(kept)
    computed = system.method.precompute(read)
    if keep and computed is not None:
        for k, one in enumerate(opened):
            one.precomputed = compact(of_image(computed, k))
    return computed
