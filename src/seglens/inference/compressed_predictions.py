"""Predictions of many queries about one image in little memory: one at a time has the image's size."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from jaxtyping import Bool

from seglens.inference.instance import Instance
from seglens.inference.prediction import Prediction


@dataclass(frozen=True)
class Bits:
    """A mask as compressed bits: some kilobytes instead of megabytes, and never more than an eighth."""

    shape: tuple[int, int]
    data: bytes

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "h w"]) -> Bits:
        return cls((mask.shape[0], mask.shape[1]), zlib.compress(np.packbits(mask).tobytes(), 1))

    def mask(self) -> Bool[np.ndarray, "h w"]:
        height, width = self.shape
        bits = np.frombuffer(zlib.decompress(self.data), np.uint8)
        return np.unpackbits(bits, count=height * width).reshape(height, width).view(bool)


@dataclass(frozen=True)
class _Part:
    """An instance in little memory."""

    bits: Bits
    score: float
    corner: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, one: Instance) -> _Part:
        return cls(Bits.of(one.cut), one.score, one.box[:2], one.size)

    def instance(self) -> Instance:
        return Instance(self.bits.mask(), self.score, self.corner, self.size)


@dataclass(frozen=True, eq=False)
class Folded:
    """A prediction in little memory. `bare` is the prediction with empty masks."""

    bare: Prediction
    mask: Bits
    parts: tuple[_Part, ...]

    @classmethod
    def of(cls, one: Prediction) -> Folded:
        parts = tuple(_Part.of(thing) for thing in one.instances)
        empty = np.broadcast_to(np.zeros((), bool), one.mask.shape)  # one byte
        return cls(replace(one, mask=empty, instances=()), Bits.of(one.mask), parts)

    def prediction(self) -> Prediction:
        """The prediction as it was."""
        return replace(self.bare, mask=self.mask.mask(), instances=tuple(part.instance() for part in self.parts))


class CompressedPredictions(Sequence[Prediction]):
    """A sequence of predictions whose masks are decompressed at each access.

    32 masks of 64 megapixels take 2 GB; compressed they take some megabytes, and one that is used the 64 MB of its
    pixels."""

    def __init__(self, predictions: Iterable[Prediction | Folded]):
        """Compresses one after the other: with an iterator, only one is in memory at the image's size."""
        self._folded = tuple(one if isinstance(one, Folded) else Folded.of(one) for one in predictions)

    def __len__(self) -> int:
        return len(self._folded)

    @overload
    def __getitem__(self, place: int) -> Prediction: ...
    @overload
    def __getitem__(self, place: slice) -> CompressedPredictions: ...
    def __getitem__(self, place: int | slice) -> Prediction | CompressedPredictions:
        return (
            CompressedPredictions(self._folded[place]) if isinstance(place, slice) else self._folded[place].prediction()
        )

    def __iter__(self) -> Iterator[Prediction]:
        return (one.prediction() for one in self._folded)

    @property
    def bare(self) -> tuple[Prediction, ...]:
        """The predictions with empty masks: for code that does not need the masks."""
        return tuple(one.bare for one in self._folded)


def bare(predictions: Sequence[Prediction]) -> Sequence[Prediction]:
    """The predictions without decompressing their masks, which may be empty."""
    return predictions.bare if isinstance(predictions, CompressedPredictions) else predictions
