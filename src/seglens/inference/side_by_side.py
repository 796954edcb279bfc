"""The MLLM and the mask decoder's image encoder do not need each other: they encode an image at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

from seglens.core.cpu_threads import room_for_two
from seglens.core.types import Embedding

T = TypeVar("T")


def side_by_side(read: Callable[[], T], embed: Callable[[], Embedding], device: torch.device) -> tuple[T, Embedding]:
    """The results of both, the same bit for bit as one after the other. `device` is that of `embed`.

    On a CPU `embed` runs in a thread beside this one, where the cores have room for it; on a CUDA GPU its kernels go to
    a second stream; elsewhere it runs first. Raises what either raises, after both have ended."""
    if device.type == "cuda":
        return _on_two_streams(read, embed, device)
    autocast = torch.is_autocast_enabled("cpu")  # a thread would have its own
    if device.type == "cpu" and not autocast and room_for_two():
        return _in_two_threads(read, embed)
    embedding = embed()
    return read(), embedding


def _in_two_threads(read: Callable[[], T], embed: Callable[[], Embedding]) -> tuple[T, Embedding]:
    """A thread for each call: threads that stay would be missing in a process that is forked later."""
    inference = torch.is_inference_mode_enabled()

    def embed_there() -> Embedding:
        with torch.inference_mode(inference):
            return embed()

    with ThreadPoolExecutor(1, thread_name_prefix="seglens-encoder") as thread:
        embedding = thread.submit(embed_there)
        return read(), embedding.result()


def _on_two_streams(read: Callable[[], T], embed: Callable[[], Embedding], device: torch.device) -> tuple[T, Embedding]:
    """The GPU computes the embedding while the CPU prepares the MLLM's input and starts its kernels."""
    main, side = torch.cuda.current_stream(device), _second_stream(device)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        embedding = embed()
    try:
        result = read()
    finally:
        main.wait_stream(side)
    for tensor in (embedding.coarse, *embedding.fine):
        tensor.record_stream(main)  # its memory is given back only when the main stream has used it
    return result, embedding


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
