"""Pictures of more than 8 bits a channel as 8 bits: by the depth that they use, whatever the file could hold.

Cameras, microscopes, detectors and thermal cameras give 10, 12 or 14 bits, and their files hold 16: read by the upper
byte, such a picture is nearly black. The depth is the one that the file declares (TIFF's largest sample value, PNG's
significant bits), or else follows from the largest value, as in viewers for such pictures."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

FULL = 16  # bits of the files meant here
BYTE = 8
ENDS = 0.001  # share of the pixels at either end that the range leaves out: dead and saturated ones
NARROW = 1 / 8  # of the depth: what varies less is shown by its own range (a thermal image around one temperature)
LEAST = 64  # values: what varies by fewer is flat, and stretching would only show its noise
_PHOTOMETRIC, _LARGEST, _LARGEST_SIGNED, _BITS, _SAMPLE_FORMAT = 262, 281, 341, 258, 339  # TIFF's tags
SWAPPED = {"16L": "16B", "16B": "16L", "16N": "16B" if np.little_endian else "16L"}


def to_bytes(pixels: UInt16[np.ndarray, "*size"], declared: int | None = None) -> UInt8[np.ndarray, "*size"]:
    """Samples of 16 bits as 8. `declared` is the depth in bits that the file states, if it does.

    Pixels that were made from 8 bits (every sample a multiple of 257, or of 256) give these 8 bits, however dark."""
    used = np.flatnonzero(counts := np.bincount(pixels.ravel(), minlength=1))
    if not (used % 257).any() or not (used % 256).any():
        return (pixels >> BYTE).astype(np.uint8)
    bits = depth(int(used[-1]), declared)
    share = counts.cumsum() / pixels.size
    low, high = (int(np.searchsorted(share, at)) for at in (ENDS, 1 - ENDS))
    if bits != declared and LEAST <= high - low < NARROW * 2**bits:
        return ((pixels.clip(low, high) - float(low)) * (255 / (high - low))).round().astype(np.uint8)
    return (pixels >> bits - BYTE).astype(np.uint8)


def depth(largest: int, declared: int | None = None) -> int:
    """Bits of a picture by its largest sample, or as the file declares unless a sample is larger than that."""
    needed = max(BYTE, largest.bit_length())
    return declared if declared is not None and needed <= declared <= FULL else needed


def declared_depth(image: Image.Image) -> int | None:
    """The bits that a file declares to use, before its pixels are read; None where it does not."""
    tags: Any = getattr(image, "tag_v2", None)
    if tags is not None:
        largest = tags.get(_LARGEST) or tags.get(_LARGEST_SIGNED)
        largest = max(largest) if isinstance(largest, tuple) else largest
        if largest in [2**bits - 1 for bits in range(BYTE + 1, FULL + 1)]:  # else it is that of the samples
            return int(largest).bit_length()
        bits = max(tags.get(_BITS) or (FULL,))
        return int(bits) if BYTE < bits < FULL else None
    return _significant_bits(getattr(image, "fp", None)) if image.format == "PNG" else None


def _significant_bits(file: Any) -> int | None:
    """PNG's sBIT chunk, which stands before the pixels."""
    if file is None:
        return None
    place, bits = file.tell(), None
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"sBIT":
            bits = max(file.read(length)[:3], default=None)
            break
        if name in (b"IDAT", b"IEND"):
            break
        file.seek(length + 4, 1)
    file.seek(place)
    return bits


def white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF counts from white to black, as X-rays do: Pillow inverts samples of 8 bits only."""
    tags: Any = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(_PHOTOMETRIC) == 0 and image.mode.startswith("I")


def is_signed_byte(image: Image.Image) -> bool:
    """Whether a TIFF holds bytes from -128 to 127, which Pillow reads as 0 to 255, the negative ones as bright."""
    tags: Any = getattr(image, "tag_v2", None)
    kinds = (tags.get(_SAMPLE_FORMAT) or (1,)) if tags is not None else (1,)
    return image.mode == "L" and 2 in (kinds if isinstance(kinds, tuple) else (kinds,))


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a file that is not read yet has 16 bits a channel in colours, of which Pillow keeps the upper 8."""
    return any(";16" in _raw_mode(tile) for tile in getattr(image, "tile", ())) and not image.mode.startswith("I")


def opened_from(image: Image.Image) -> Any:
    """The file, or its name, that a picture is read from; None for a picture from memory."""
    return getattr(image, "filename", "") or getattr(image, "fp", None)


def lower_bytes(image: Image.Image, file: Any) -> Image.Image | None:
    """The lower 8 bits of each channel of a file whose upper 8 bits `image` holds: the file read in the other byte
    order. None where that cannot be done."""
    if not isinstance(file, str | Path):
        file.seek(0)
    twin = Image.open(file, formats=[str(image.format)])
    tiles = [(tile, _raw_mode(tile)) for tile in twin.tile]
    if not all(mode.startswith("RGB") and mode[-3:] in SWAPPED for _, mode in tiles):
        return None
    twin.tile = [tile._replace(args=_with_raw_mode(tile.args, mode[:-3] + SWAPPED[mode[-3:]])) for tile, mode in tiles]
    twin.load()
    return twin


def _raw_mode(tile: Any) -> str:
    args = tile.args
    return str(args[0] if isinstance(args, tuple) and args else args)


def _with_raw_mode(args: Any, mode: str) -> Any:
    return (mode, *args[1:]) if isinstance(args, tuple) else mode
