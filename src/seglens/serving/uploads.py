"""Images that clients send: base64 or a data URI, within limits; never a path, never an address."""

from __future__ import annotations

import base64
import binascii
import re

import numpy as np
from jaxtyping import UInt8

from seglens.data.image_decoding import ImageError, ImageTooLargeError
from seglens.data.images import load_image
from seglens.serving.limits import Limits

# The media types that a data URI may name; the bytes decide what it is.
_HEADER = re.compile(r"data:(?:image/[\w.+-]+|application/octet-stream)?(?:;[\w.+-]+=[\w.+-]+)*;base64,", re.IGNORECASE)
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # base64 has no colon
_SHOWN = 40  # characters of a wrong text that an error repeats


def decode_data_uri(text: str, limits: Limits) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of "data:image/png;base64,..." or of bare base64.

    Raises ImageTooLargeError over a limit, ImageError on anything else that is not such an image."""
    header = _HEADER.match(text)
    if header is None and _ADDRESS.match(text):
        raise ImageError(
            f"got {text[:_SHOWN]!r} for an image; need base64, or a data URI as 'data:image/png;base64,...': send the "
            "image itself, not its place"
        )
    coded = text[header.end() :] if header else text
    _check_bytes(len(coded) * 3 // 4 - 2, limits)  # before it is decoded; two of the characters may be padding
    return decode_bytes(_from_base64(coded), limits)


def decode_bytes(data: bytes, limits: Limits) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an encoded file. Raises as `decode_data_uri`."""
    _check_bytes(len(data), limits)
    return load_image(data, limits.pixels)


def _check_bytes(count: int, limits: Limits) -> None:
    if count > limits.image_bytes:
        raise ImageTooLargeError(
            f"the image has {count} bytes; need at most {limits.image_bytes}: make it smaller, or save it as JPEG"
        )


def _from_base64(coded: str) -> bytes:
    coded = "".join(coded.split())  # mail programs and shells insert line breaks
    try:
        return base64.b64decode(coded.rstrip("=") + "=" * (-len(coded.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            f"got {coded[:_SHOWN]!r} for an image, which is no base64 ({error}); need the bytes of an image file in "
            "base64, bare or as a data URI: file paths are not read here"
        ) from error
