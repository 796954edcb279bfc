"""Large pictures at a half, a quarter or an eighth of their size, with their masks: for readers that would scale the
rest away. A JPEG is decoded at that size, in a fraction of the time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from seglens.core.types import Target
from seglens.data.image_decoding import MAX_PIXELS, check_size, decode, orientation_of
from seglens.data.images import open_image

FACTORS = (8, 4, 2)  # those at which a JPEG can be decoded
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange the sides


def load_reduced(path: str | Path, least: int | None) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]:
    """RGB pixels as `load_image` gives them, but at most reduced so far that no side is shorter than ``least`` pixels
    (None: not reduced); and the (height, width) of the file, upright. Raises ``ImageError`` where `load_image` does."""
    return open_image(path, partial(_decode, least=least))


def factor_for(size: tuple[int, int], least: int | None) -> int:
    """By how much a picture of (height, width) is reduced: 1, 2, 4 or 8."""
    return 1 if least is None else next((factor for factor in FACTORS if min(size) // factor >= least), 1)


def _decode(image: Image.Image, name: str, least: int | None) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]:
    check_size(*image.size, name)  # before it is changed to the reduced one
    width, height = image.size
    factor = factor_for((height, width), least)
    if factor > 1 and _divides(factor, image):
        image.draft(image.mode, (width // factor, height // factor))  # what is no JPEG stays as it is
    whole = image.size == (width, height)
    pixels = decode(image, name, MAX_PIXELS)
    if whole and factor > 1:
        pixels = np.array(Image.fromarray(pixels).reduce(factor))
    return pixels, (width, height) if orientation_of(image) in _SIDEWAYS else (height, width)


def _divides(factor: int, image: Image.Image) -> bool:
    """Whether the blocks of pixels that become one begin at the same places before and after the picture is turned
    upright: the last block may be a part, and would come first in a turned picture."""
    return orientation_of(image) == 1 or not any(side % factor for side in image.size)


def reduced_target(target: Target, factor: int) -> Target:
    """A target whose mask is read at the centre of every ``factor`` x ``factor`` pixels; what is smaller than that
    keeps a pixel."""
    if factor == 1:
        return target
    ignore = None if target.ignore is None else _reduced(target.ignore, factor)
    smaller = replace(target, mask=_reduced(target.mask, factor), ignore=ignore)
    if target.box is None:
        return smaller
    x, y, width, height = target.box
    return replace(smaller, box=(x / factor, y / factor, width / factor, height / factor))


def _reduced(mask: Bool[np.ndarray, "h w"], factor: int) -> Bool[np.ndarray, "i j"]:
    rows, columns = (np.minimum(np.arange(factor // 2, side + factor // 2, factor), side - 1) for side in mask.shape)
    reduced = mask.take(rows, axis=0).take(columns, axis=1)
    if not reduced.any():
        y, x = np.nonzero(mask)
        reduced[y // factor, x // factor] = True
    return reduced
