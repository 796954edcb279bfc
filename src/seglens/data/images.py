"""Any image that a user may have, as uint8 RGB, or an error of one line with the reason."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from seglens.data.image_decoding import (
    MAX_PIXELS,
    ImageError,
    check_size,
    decode,
    decoder_errors,
    formats,
    one_line,
    orientation_of,
    quiet,
    stored,
)

TIFF = (b"II*\0", b"MM\0*")  # how a file begins

T = TypeVar("T")


def load_image(
    source: str | Path | Image.Image | np.ndarray | bytes, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels, 0..255, of a file, its bytes, a PIL image or a uint8 array ("h w", "h w 3" or "h w 4").

    The result is a copy: turned upright by EXIF, transparency over white, the first frame of an
    animation (a PIL image: the frame it is at), 16 bits by the depth that they use (`seglens.data.bit_depth`), wider
    integers by their range.

    Raises ``ImageError``, and nothing else, on what is missing, damaged, empty, not an image, over ``max_pixels``
    (by the header, before decoding), of unknown scale (floats), or on the network.
    """
    to_pixels = partial(decode, max_pixels=min(max_pixels, MAX_PIXELS))
    if isinstance(source, np.ndarray):
        return _from_array(source, to_pixels)
    if isinstance(source, Image.Image):
        return to_pixels(source, "the PIL image")
    if isinstance(source, bytes):
        return _open(io.BytesIO(source), f"the image of {len(source)} bytes", to_pixels)
    if isinstance(source, str | Path):
        return open_image(source, to_pixels)
    raise ImageError(
        f"got {type(source).__name__} for an image; need a path, a PIL image, a uint8 array or the bytes of a file"
    )


def load_stored(path: str | Path) -> Image.Image:
    """The picture of a file with its values as they are stored (palette indices, 1, 8 or 16 bits, alpha), upright.

    Raises ``ImageError`` where `load_image` does, but for modes of unknown scale."""
    return open_image(path, stored)


def orientation(path: str | Path) -> int:
    """The EXIF orientation of a file, 1 (also when it has none) to 8. Raises ``ImageError`` on what is no image."""
    return open_image(path, lambda image, name: orientation_of(image))


def _from_array(array: np.ndarray, decode: Callable[[Image.Image, str], T]) -> T:
    name = f"the {array.dtype} array of shape {array.shape}"
    if array.dtype != np.uint8:
        raise ImageError(
            f"{name} has an unknown scale; need uint8: convert it to 0..255, as in (255 * x).astype('uint8')"
        )
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ImageError(
            f"{name} is not an image; need (h, w), (h, w, 3) or (h, w, 4): put channels last, drop the batch"
        )
    check_size(array.shape[1], array.shape[0], name)
    return decode(Image.fromarray(np.ascontiguousarray(array)), name)


def open_image(source: str | Path, then: Callable[[Image.Image, str], T]) -> T:
    """What `then` makes of the opened image of a local file and its name. Raises ``ImageError`` as `load_image`."""
    text = str(source)
    name = repr(text if len(text) <= 200 else f"{text[:197]}...")
    if re.match(r"[a-z][a-z0-9+.-]+://|https?:/|data:", text, re.IGNORECASE):  # Path() turns // into /
        raise ImageError(f"{name} is a URL; need a local file, as no network is used unasked: download it first")
    try:
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name} is a folder; need one image file: name a file in it")
        if path.exists() and not path.is_file():  # a pipe would block, a device might never end
            raise ImageError(f"{name} is a pipe or device; need an image file: save the image to disk first")
        with path.open("rb") as file:
            return _open(file, name, then)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist; need an image file: check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(
            f"{name} cannot be read ({one_line(error)}); need a readable file: check name and rights"
        ) from error


def _open(file: io.BufferedReader | io.BytesIO, name: str, then: Callable[[Image.Image, str], T]) -> T:
    with decoder_errors(name), quiet():
        image = Image.open(file, formats=formats())
    with image:
        return then(image, name)


def load_labels(path: str | Path) -> Integer[np.ndarray, "h w"]:
    """The label values of a PNG or TIFF as the file stores them: palette indices, or gray of up to 16 bits; colours
    never.

    Raises ``ImageError`` where `load_stored` does, and on what is neither or has more than one channel.
    """
    image = load_stored(path)
    with Path(path).open("rb") as file:
        header = file.read(26)  # through the bit depth and the kind of colour, which come first in every PNG
    png = header.startswith(b"\x89PNG")
    if not (png or header.startswith(TIFF)) or image.mode not in ("1", "L", "P", "I", "I;16"):
        raise ImageError(
            f"{str(path)!r} has mode {image.mode}; a label map is a PNG or TIFF of one channel (palette, or gray of "
            "8 or 16 bits): give the map of indices, not its coloured view"
        )
    pixels, (bits, colour) = np.array(image), header[24:]
    if png and colour == 0 and bits in (2, 4):  # Pillow stretches these over 0..255
        return pixels // (255 // (2**bits - 1))
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels
