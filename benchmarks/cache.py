"""What reading a feature cache costs: `python benchmarks/cache.py [IMAGES]`. Prints figures of one run on this machine.

Features of made-up numbers in the shapes of LLaVA-1.5-7B with SAM, eight questions to an image, written to a temporary
folder. The same files are read from begin to end with nothing done to the bytes, and through the cache, every byte
checked; from the disk (the kernel drops them from its cache first) and from its memory. Medians over five rounds.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from seglens.core.types import Embedding, Sample, Target
from seglens.features.cache import Cache, Manifest, build
from seglens.features.frozen import Features, QuestionFeatures

ROUNDS, PER_SHARD, QUESTIONS = 5, 8, 8
PREFIX, TOKENS, WIDTH, GRID, CHANNELS, SIDE = 611, 20, 4096, 24, 256, 64  # of LLaVA-1.5-7B and of SAM
BUFFER = 1 << 20


class Blank:
    """Samples of which only the number counts."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        mask = np.zeros((8, 8), bool)
        return Sample(str(index), np.zeros((8, 8, 3), np.uint8), (Target("what is this?", mask),) * QUESTIONS)


def extract(sample: Sample) -> Features:
    generator = torch.Generator().manual_seed(int(sample.id))

    def rows(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).bfloat16()

    def area(side: int) -> torch.Tensor:
        return torch.randint(256, (side, side), generator=generator, dtype=torch.uint8)

    positions = torch.arange(PREFIX, PREFIX + TOKENS)
    questions = tuple(
        QuestionFeatures(rows(TOKENS, WIDTH), positions, area(4 * SIDE), area(GRID), True) for _ in range(QUESTIONS)
    )
    embedding = Embedding(rows(1, CHANNELS, SIDE, SIDE))
    return Features(
        rows(PREFIX, WIDTH), torch.arange(PREFIX), torch.arange(35, PREFIX), (GRID, GRID), embedding, questions
    )


def forget(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plainly(folder: Path) -> None:
    buffer = bytearray(BUFFER)
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def checked(folder: Path) -> None:
    cache = Cache.open(folder)
    for image in range(len(cache)):
        cache.example(image, tuple(range(QUESTIONS)))


def seconds(folder: Path, cold: bool) -> tuple[float, float]:
    """Of reading plainly and through the cache, turn by turn, so that a busy machine is so to both."""
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for work, times in zip((plainly, checked), spent, strict=True):
            if cold:
                forget(folder)
            began = time.perf_counter()
            work(folder)
            times.append(time.perf_counter() - began)
    return statistics.median(spent[0]), statistics.median(spent[1])


def main(images: int = 32) -> None:
    torch.set_num_threads(1)
    samples, sizes = Blank(images), {}
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in ("auto", "int8"):
            folder = Path(temporary) / dtype
            build(samples, extract, folder, Manifest({}, "made up", images, dtype=dtype, per_shard=PER_SHARD))
            sizes[dtype] = sum(path.stat().st_size for path in folder.iterdir())
        folder = Path(temporary) / "auto"
        print(f"{'per image, bf16':<34}{sizes['auto'] / images / 1e6:8.2f} MB")
        print(
            f"{'per image, int8':<34}{sizes['int8'] / images / 1e6:8.2f} MB  {sizes['int8'] / sizes['auto']:5.2f} of it"
        )
        for where, cold in (("disk", True), ("memory", False)):
            plain, ours = (sizes["auto"] / 1e9 / spent for spent in seconds(folder, cold))
            print(f"{f'from {where}, plain read':<34}{plain:8.2f} GB/s")
            print(f"{f'from {where}, every byte checked':<34}{ours:8.2f} GB/s  {ours / plain:5.2f} of it")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
