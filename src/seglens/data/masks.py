"""Masks on disk: COCO run lengths, polygons and PNG. In memory a mask is always a bool array, "h w".

Run lengths are read by our own code and not by pycocotools, which draws outside its memory on hostile ones.
"""

from __future__ import annotations

import io
import operator
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from PIL import Image
from pycocotools import mask as coco

from seglens.core.files import write_atomic
from seglens.data.faults import SeveralMistakesError, messages_of
from seglens.data.image_decoding import MAX_PIXELS
from seglens.data.image_record import DecodedMask, MaskSource

# How far a polygon may leave its image, in shares of a side and, if that is more, in pixels: annotation tools and
# published polygons do so a little; a point further out was drawn on another image, or on one of another size.
SLACK, SLACK_PIXELS = 0.01, 2


def encode_rle(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """COCO's compressed run lengths, ``{"size": [h, w], "counts": str}``, ready for JSON.

    Raises ``ValueError`` on a mask without pixels.
    """
    if not mask.size:
        raise ValueError(f"encode_rle got a mask of shape {mask.shape}; it needs at least one pixel")
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: Mapping[str, Any], size: tuple[int, int] | None = None) -> Bool[np.ndarray, "h w"]:
    """The mask of COCO run lengths, compressed (str or bytes) or not (a list, as for crowds).

    Safe on hostile input: runs are checked before anything is drawn, where pycocotools would trust them.
    Raises ``ValueError`` when the runs are not valid, do not fill their size, or are not of ``size`` (h, w) if given.
    """
    (height, width), runs = read_rle(rle, size)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(columns.reshape(width, height).T)


def read_rle(
    rle: Mapping[str, Any], size: tuple[int, int] | None = None
) -> tuple[tuple[int, int], Int64[np.ndarray, " r"]]:
    """The (height, width) of COCO run lengths and the checked runs, column by column, background first.

    Raises ``ValueError`` as `decode_rle` does."""
    try:
        height, width = _rle_size(rle)
        runs = _runs(rle.get("counts"))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f'decode_rle got an invalid RLE ({error}); it needs COCO\'s {{"size": [h, w], "counts": str or list}}'
        ) from error
    if size is not None and (height, width) != tuple(size):
        raise ValueError(
            f"decode_rle got an RLE of {height} x {width} (height x width); it needs {size[0]} x {size[1]}: "
            "the mask belongs to another image, or to a resized one"
        )
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"decode_rle got a size of {height} x {width}; it needs 1 to {MAX_PIXELS} pixels")
    # Each run is bounded before the sum, which could otherwise wrap around to the right number.
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise ValueError(
            f"decode_rle got runs that do not fill {height} x {width} pixels; the RLE is damaged or of another size"
        )
    return (height, width), runs


def _rle_size(rle: Mapping[str, Any]) -> tuple[int, int]:
    if rle.get("size") is None:
        raise ValueError("it has no size")
    try:
        height, width = (operator.index(side) for side in rle["size"])
    except (TypeError, ValueError):
        raise ValueError(f"its size is {str(rle['size'])[:40]}, not two whole numbers") from None
    return height, width


def _runs(counts: Any) -> Int64[np.ndarray, " r"]:
    """Run lengths, background first. Compressed: 5 bits per byte, low first, signed, as differences from two runs ago.

    The code of `rleFrString` in cocoapi's `maskApi.c`, for all runs at once. Raises ``ValueError`` on any other string.
    """
    if counts is None:
        raise ValueError("it has no counts")
    if not isinstance(counts, str | bytes):
        whole = np.asarray(counts).reshape(-1)
        if len(whole) and whole.dtype.kind not in "iu":  # numpy would silently cut 1.5 to 1
            raise ValueError("counts hold something else than whole numbers")
        return whole.astype(np.int64)
    if isinstance(counts, str) and not counts.isascii():
        raise ValueError("counts hold a character outside COCO's 64")
    code = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(~code & 0x20)  # no "more follows" bit: a run ends here
    if not len(code) or code.min() < 0 or code.max() > 63 or code[-1] & 0x20:
        raise ValueError("counts are empty, cut short, or hold a character outside COCO's 64")
    first = np.append(0, last[:-1] + 1)
    length = last - first + 1
    if length.max() > 7:
        raise ValueError("a run is longer than 32 bits")
    shift = 5 * (np.arange(len(code)) - np.repeat(first, length))
    runs = np.add.reduceat((code & 0x1F) << shift, first) - ((code[last] & 0x10) >> 4 << 5 * length)  # sign extension
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs


def save_png(mask: Bool[np.ndarray, "h w"], path: str | Path) -> None:
    """Write a mask as an 8-bit gray PNG of 0 and 255, lossless and all at once; `maskfile.load_mask` reads it."""
    if not mask.size:
        raise ValueError(f"save_png got a mask of shape {mask.shape}; it needs at least one pixel")
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    write_atomic(Path(path), buffer.getvalue())


@dataclass(frozen=True)
class Polygons:
    """The union of polygons, each [x0, y0, x1, y1, ...] in pixels, rasterised as COCO does. Refused where they leave
    the image by more than `SLACK`: they would silently be cut at its border."""

    parts: Sequence[Any]  # a file may hold anything: checked when drawn
    scaled: bool = False  # computed from shares of the image's sides: small numbers are pixels too

    @classmethod
    def of(cls, parts: Sequence[Any]) -> Polygons:
        """The same in a quarter of the memory: for an index of a million polygons."""
        try:
            return cls(tuple(array("d", part) for part in parts))
        except (TypeError, OverflowError):
            return cls(parts)

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        if not self.parts:
            raise ValueError("got no polygon; an object needs at least one, and an absent target is written otherwise")
        for part in self.parts:
            _check_polygon(part)
        _check_inside(self.parts, size, self.scaled)
        rle = coco.merge(coco.frPyObjects([list(map(float, part)) for part in self.parts], *size))
        return DecodedMask(decode_rle(rle, size))


def _check_polygon(part: Any) -> None:
    beginning = str(part.tolist() if isinstance(part, array) else part)[:60]
    try:
        numbers = np.asarray(part, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"got a polygon that is not a list of numbers: {beginning}") from None
    if numbers.ndim != 1:
        raise ValueError(f"got a polygon that is not one flat list of x0, y0, x1, y1, ...: {beginning}")
    if len(numbers) % 2 or len(numbers) < 6:
        raise ValueError(
            f"got a polygon of {numbers.size} numbers, {beginning}; it needs x and y of at least three points"
        )
    if not (np.isfinite(numbers).all() and np.abs(numbers).max() < 1e6):
        raise ValueError(f"got a polygon with a coordinate that is no pixel: {beginning}")


def _check_inside(parts: Sequence[Any], size: tuple[int, int], scaled: bool) -> None:
    corners = np.concatenate([np.asarray(part, np.float64).reshape(-1, 2) for part in parts])
    sides = np.array([size[1], size[0]])
    first = corners.min() >= 0 and corners.max() <= 1 and min(size) > 2  # they would be drawn as a pixel
    if first and not scaled and (corners % 1).any():  # whole numbers may well mean that pixel
        raise ValueError(
            f"got polygons that lie within one pixel of {size[0]} x {size[1]}; if their numbers are shares of the "
            "image's sides, multiply x by its width and y by its height"
        )
    beyond = np.maximum(corners - sides, -corners)
    if (beyond > np.maximum(SLACK_PIXELS, SLACK * sides)).any():
        x, y = corners[beyond.max(1).argmax()]
        raise ValueError(
            f"got a polygon with the point ({x:g}, {y:g}) for an image of {size[0]} x {size[1]} pixels (height x "
            "width); it belongs to another image, or to a resized one"
        )


@dataclass(frozen=True)
class RunLengthDict:
    """COCO run lengths."""

    rle: Mapping[str, Any]

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        return DecodedMask(decode_rle(self.rle, size))


@dataclass(frozen=True)
class NamedSource:
    """A source whose errors begin with the name of its record."""

    name: str
    source: MaskSource

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        try:
            return self.source.draw(size)
        except ValueError as error:
            raise SeveralMistakesError([f"{self.name}: {one}" for one in messages_of(error)]) from error


def draw_each(sources: Iterable[MaskSource], size: tuple[int, int]) -> list[DecodedMask]:
    """The masks of all sources. Raises SeveralMistakesError with what is wrong with each bad one."""
    drawn, wrong = list[DecodedMask](), list[str]()
    for source in sources:
        try:
            drawn.append(source.draw(size))
        except ValueError as error:
            wrong += messages_of(error)
    if wrong:
        raise SeveralMistakesError(wrong)
    return drawn


@dataclass(frozen=True)
class Union:
    """The union of several sources: one phrase for many objects."""

    sources: Sequence[MaskSource]

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        drawn = draw_each(self.sources, size)
        ignores = [one.ignore for one in drawn if one.ignore is not None]
        mask = np.logical_or.reduce([one.mask for one in drawn])
        ignore = np.logical_or.reduce(ignores) & ~mask if ignores else None
        return DecodedMask(mask, ignore, absent=all(one.absent for one in drawn))


@dataclass(frozen=True)
class Nothing:
    """The mask of a target that is not in the image."""

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        return DecodedMask(np.zeros(size, bool), absent=True)
