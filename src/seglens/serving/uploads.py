"""Images that strangers send: base64 or a data URI, within limits; never a path, never an address."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from seglens.data.image_decoding import ImageError, ImageTooLargeError
from seglens.data.images import load_image

# What a data URI may say it holds; the bytes decide what it is.
_HEADER = re.compile(r"data:(?:image/[\w.+-]+|application/octet-stream)?(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # base64 has no colon
_SHOWN = 40  # characters of a wrong text that an error repeats


@dataclass(frozen=True)
class UploadLimits:
    """What one image may cost. `pixels` are told by its header, before anything is decoded."""

    bytes: int = 20 * 2**20  # of the encoded file
    pixels: int = 64_000_000  # above the largest common telephone's; 183 MiB of RGB

    def __post_init__(self) -> None:
        if min(self.bytes, self.pixels) < 1:
            raise ValueError(f"got limits of {self.bytes} bytes and {self.pixels} pixels; need at least 1 of each")


def decode_data_uri(text: str, limits: UploadLimits) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of "data:image/png;base64,..." or of bare base64.

    Raises ImageTooLargeError over a limit, ImageError on anything else that is not such an image."""
    header = _HEADER.match(text)
    if header is None and _ADDRESS.match(text):
        raise ImageError(
            f"got {text[:_SHOWN]!r} for an image; need base64, or a data URI as 'data:image/png;base64,...': send the "
            "image itself, not its place"
        )
    coded = text[header.end() :] if header else text
    _check_bytes(len(coded) * 3 // 4 - 2, limits)  # before it is decoded; padding may stand for two
    return decode_bytes(_from_base64(coded), limits)


def decode_bytes(data: bytes, limits: UploadLimits) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an encoded file. Raises as `decode_data_uri`."""
    _check_bytes(len(data), limits)
    return load_image(data, limits.pixels)


def _check_bytes(count: int, limits: UploadLimits) -> None:
    if count > limits.bytes:
        raise ImageTooLargeError(
            f"the image has {count} bytes; need at most {limits.bytes}: make it smaller, or save it as JPEG"
        )


def _from_base64(coded: str) -> bytes:
    coded = "".join(coded.split())  # as mail and shells fold it
    try:
        return base64.b64decode(coded.rstrip("=") + "=" * (-len(coded.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            f"got {coded[:_SHOWN]!r} for an image, which is no base64 ({error}); need the bytes of an image file in "
            "base64, bare or as a data URI: file paths are not read here"
        ) from error
