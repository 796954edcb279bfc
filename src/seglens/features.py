"""Readouts computed once: what the frozen parts say of a dataset, ready to train heads on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from seglens.backbones import Backbone
from seglens.decoders import MaskDecoder
from seglens.files import write_atomic
from seglens.types import Embedding, Readout, Sample


@dataclass(frozen=True)
class Asked:
    """One question about an image: its own rows at the read layer, and the truth as covered area (255 is all)."""

    rows: Float[Tensor, "t d"]
    positions: Int[Tensor, "t ..."]
    mask: UInt8[Tensor, "s s"]  # on the mask decoder's canvas
    cells: UInt8[Tensor, "h w"]  # on the backbone's grid
    present: bool


@dataclass(frozen=True)
class Features:
    """What the frozen parts say of one image and of some questions about it, in the precision they said it."""

    prefix: Float[Tensor, "p d"]
    prefix_positions: Int[Tensor, "p ..."]
    image_tokens: Int[Tensor, " i"]
    grid: tuple[int, int]
    embedding: Embedding  # of a single image: b is 1
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Pick:
    """An image of a source and which of its questions to use: what a training step asks for."""

    image: int
    questions: tuple[int, ...]


@runtime_checkable
class FeatureSource(Protocol):
    """Frozen features by number, computed when asked for or read from disk; the same numbers either way."""

    def __len__(self) -> int: ...

    def questions(self, image: int) -> int:
        """How many questions there are about an image."""

    def features(self, pick: Pick) -> Features: ...

    def fingerprint(self) -> str:
        """Tells one source from another: a hash of all that decides its features."""


@dataclass(frozen=True)
class Batch:
    """A training step: what the frozen parts gave, and the truth on the canvas (`masks`) and on the grid (`cells`)."""

    readout: Readout
    embedding: Embedding
    masks: Float[Tensor, "b q s s"]
    cells: Float[Tensor, "b q h w"]
    present: Bool[Tensor, "b q"]


@dataclass(frozen=True)
class FeatureStore:
    """The frozen features of n images with q questions each, in half precision; areas are bytes, 255 is all covered."""

    prefix: Float[Tensor, "n p d"]
    question: Float[Tensor, "n q t d"]
    question_mask: Bool[Tensor, "n q t"]
    embedding: Float[Tensor, "n c e e"]
    masks: UInt8[Tensor, "n q s s"]
    cells: UInt8[Tensor, "n q h w"]
    present: Bool[Tensor, "n q"]
    image_tokens: Int[Tensor, " i"]

    def __len__(self) -> int:
        return len(self.prefix)

    def batch(self, chosen: Sequence[int], device: torch.device | str = "cpu") -> Batch:
        """The features of some images, in fp32."""
        index = torch.as_tensor(chosen)

        def take(stored: Tensor) -> Tensor:
            return stored[index].to(device)

        prefix, mask = take(self.prefix), take(self.question_mask)
        p, t = prefix.shape[1], mask.shape[2]
        readout = Readout(
            prefix=prefix.float(), prefix_positions=torch.arange(p, device=device).expand(len(index), -1),
            question=take(self.question).float(), question_mask=mask,
            question_positions=torch.arange(p, p + t, device=device).expand(*mask.shape),
            image_tokens=self.image_tokens.to(device), grid=(self.cells.shape[2], self.cells.shape[3]),
        )  # fmt: skip
        masks, cells = (take(areas).float() / 255 for areas in (self.masks, self.cells))
        return Batch(readout, Embedding(take(self.embedding).float()), masks, cells, take(self.present))

    def fingerprint(self) -> str:
        """Tells one store from another: a hash of everything in it."""
        digest = hashlib.blake2b(digest_size=16)
        for field in fields(self):
            digest.update(getattr(self, field.name).contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """One safetensors file, whole or absent."""
        write_atomic(path, save({f.name: getattr(self, f.name).contiguous() for f in fields(self)}))

    @classmethod
    def load(cls, path: Path) -> FeatureStore:
        """Raises ValueError when the file is damaged or not of this version."""
        try:
            stored = load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is damaged or cut short ({error}); delete it, and it is computed again"
            ) from error
        if stored.keys() != {f.name for f in fields(cls)}:
            raise ValueError(f"{path} is not a feature store of this version; delete it, and it is computed again")
        return cls(**stored)


def collect(
    samples: Iterable[Sample], backbone: Backbone, decoder: MaskDecoder, tick: Callable[[], None] = lambda: None
) -> FeatureStore:
    """Read every sample once. All samples must have the same number of queries and all images the same token count."""
    rows = []
    for sample in samples:
        rows.append(_features(sample, backbone, decoder))
        tick()
    if not rows:
        raise ValueError("got no samples to read; need at least one image with queries")
    counts = {(len(row["question"]), len(row["prefix"])) for row in rows}
    if len(counts) > 1:
        said = ", ".join(f"{q} with {p}" for q, p in sorted(counts))
        raise ValueError(f"samples differ in queries and prefix tokens ({said}); a store needs the same for all")
    longest = max(row["question"].shape[1] for row in rows)
    for row in rows:
        pad = longest - row["question"].shape[1]
        row["question"] = F.pad(row["question"], (0, 0, 0, pad))
        row["question_mask"] = F.pad(row["question_mask"], (0, pad))
    shared = rows[0].pop("image_tokens")
    stacked = {k: torch.stack([row[k] for row in rows]) for k in rows[0]}
    return FeatureStore(**stacked, image_tokens=shared)


def _features(sample: Sample, backbone: Backbone, decoder: MaskDecoder) -> dict[str, Tensor]:
    opened = backbone.open(sample.image)
    readout = backbone.read(opened, [t.query for t in sample.targets])
    embedding = decoder.encode(sample.image, opened.frame)
    if embedding.fine:
        raise ValueError(f"{decoder.name} gives {1 + len(embedding.fine)} maps per image; a store keeps one: use SAM")
    truth = torch.stack([torch.from_numpy(t.mask) for t in sample.targets])

    def area(size: int) -> Tensor:
        return (255 * opened.frame.to_canvas_mask(truth, size)).round().to(torch.uint8)

    return {
        "prefix": _half(readout.prefix[0]),
        "question": _half(readout.question[0]),
        "question_mask": readout.question_mask[0].cpu(),
        "embedding": _half(embedding.coarse[0]),
        "masks": area(decoder.mask_side),
        "cells": area(readout.grid[0]),
        "present": truth.flatten(1).any(1),
        "image_tokens": readout.image_tokens.cpu(),
    }


def _half(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", torch.float16)
