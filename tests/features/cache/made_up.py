"""Samples and features made up from their numbers: what a cache stores, without a model."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from seglens.core.types import Embedding, Sample, Target
from seglens.data.faults import RecordFault
from seglens.features.cache import Manifest
from seglens.features.frozen import Features, QuestionFeatures

KEY = {
    "backbone": {"name": "org/mllm", "revision": "abc", "layer": 14, "dtype": "bfloat16", "frame": "squash"},
    "decoder": {"name": "org/sam", "revision": None, "mean": (0.5, 0.5)},
}


@dataclass(frozen=True)
class Pictures:
    """`n` images of different sizes with one to four questions each; those of `broken` cannot be decoded."""

    n: int = 10
    broken: tuple[int, ...] = ()
    seed: int = 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise ValueError(f"data/{index}.jpg is cut short")
        random = np.random.default_rng([self.seed, index])
        height, width = random.integers(5, 20, 2)
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        questions = (f"what is № {number} of {index}?" for number in range(1 + index % 4))
        return Sample(
            str(index), image, tuple(Target(text, random.random((height, width)) < 0.3) for text in questions)
        )


@dataclass(frozen=True)
class Forgiving(Pictures):
    """The same, and it leaves the broken ones out."""

    @property
    def faults(self) -> tuple[RecordFault, ...]:
        return ()

    def usable(self, index: int) -> tuple[Sample | None, list[RecordFault]]:
        try:
            return self[index], []
        except ValueError as error:
            return None, [RecordFault("data.json", str(index), str(error))]


def extract(sample: Sample, three_axes: bool = False) -> Features:
    """A bf16 backbone that sees 4 x 4 tokens after 5 of text, and a fp32 decoder with finer maps, on random numbers."""
    generator = torch.Generator().manual_seed(zlib.crc32(sample.image.tobytes()))

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def area(side: int) -> torch.Tensor:
        return torch.randint(256, (side, side), generator=generator, dtype=torch.uint8)

    def place(begin: int, end: int) -> torch.Tensor:
        positions = torch.arange(begin, end)
        return positions[:, None].expand(-1, 3) if three_axes else positions

    questions = tuple(
        QuestionFeatures(values(3 + number, 16).bfloat16(), place(21, 24 + number), area(25), area(4), target.present)
        for number, target in enumerate(sample.targets)
    )
    embedding = Embedding(values(1, 8, 6, 6), (values(1, 4, 12, 12), values(1, 2, 24, 24)))
    return Features(values(21, 16).bfloat16(), place(0, 21), torch.arange(5, 21), (4, 4), embedding, questions)


def slowly(sample: Sample) -> Features:
    time.sleep(0.002)
    return extract(sample)


def manifest_for(samples: Pictures, **options: object) -> Manifest:
    return Manifest(KEY, "pictures:n=10", len(samples), **{"per_shard": 3, **options})  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden files too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(one: Features, other: Features) -> bool:
    """Bit for bit, in value, shape and type."""
    return _parts(one) == _parts(other)


def _parts(features: Features) -> list[object]:
    embedding = features.embedding
    tensors = [features.prefix, features.prefix_positions, features.image_tokens, embedding.coarse, *embedding.fine]
    for one in features.questions:
        tensors += [one.rows, one.positions, one.mask, one.cells]
    parts: list[object] = [features.grid, [one.present for one in features.questions]]
    for tensor in tensors:
        parts.append((tensor.dtype, tensor.shape, tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()))
    return parts
