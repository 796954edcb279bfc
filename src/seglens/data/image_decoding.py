"""An opened image as pixels: upright, of 8 bits, over white; and every failure of a decoder as an `ImageError`."""

from __future__ import annotations

import contextlib
import importlib
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, UnidentifiedImageError

from seglens.data.bit_depth import (
    declared_depth,
    depth,
    is_deep_colour,
    is_signed_byte,
    lower_bytes,
    opened_from,
    to_bytes,
    white_is_zero,
)

# Twice Pillow's warning level, which is where Pillow itself refuses: 0.5 GiB of RGB.
MAX_PIXELS = 178_956_970
# Named, because Pillow would otherwise try every format it knows, among them EPS, which runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
HEIF = "HEIF"  # of telephones; Pillow reads it with a plugin from another package
PLUGIN = "pillow-heif"
_FLOATS = frozenset((".pfm",))  # a kind of PPM, of unknown scale: depths, never photographs
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# catch_warnings swaps the filters of the whole process: two threads inside it would restore each other's.
_QUIET = threading.Lock()


class ImageError(ValueError):
    """An image that cannot be used: one line with what was given, what is needed and what to do."""


class ImageTooLargeError(ImageError):
    """An image of more pixels, or more bytes, than are allowed."""


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that can be decoded here."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in (*FORMATS, HEIF) if name in Image.OPEN)


@cache
def suffixes() -> frozenset[str]:
    """The endings, in lower case and with their dot, of files that can be decoded here."""
    names = {*formats(), "MPO"}  # a JPEG of several pictures, which Pillow opens as JPEG
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in names) - _FLOATS


def decode(image: Image.Image, name: str, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    check_size(*image.size, name, max_pixels)
    with decoder_errors(name), quiet():
        declared, deep, file = declared_depth(image), is_deep_colour(image), opened_from(image)
        if is_signed_byte(image):
            raise ImageError(f"{name} has signed bytes, of unknown zero; need unsigned ones, 0 to 255: convert it")
        image.load()
        turn = _TURNS.get(orientation_of(image))  # not before: Pillow turns a TIFF when it reads it
        if deep:
            image = _deep_colours(image, file, declared, name)
        elif image.mode.startswith("I"):
            image = Image.fromarray(_to_bytes(image, declared))
        return np.array(_to_rgb(_turned(image, turn), name))


def stored(image: Image.Image, name: str) -> Image.Image:
    check_size(*image.size, name)
    with decoder_errors(name), quiet():
        image.load()
        turn = _TURNS.get(orientation_of(image))
        if white_is_zero(image):
            image = Image.fromarray(65535 - np.asarray(image))
        return _turned(image, turn)


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def orientation_of(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # a photograph with a broken EXIF block is still a photograph
        value = image.getexif().get(_ORIENTATION)
        return value if value in _TURNS else 1
    return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(f"{name} has float pixels of unknown scale; need 8 or 16 bits: convert it to 8 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":  # Pillow has no direct way from premultiplied gray
        image = image.convert("LA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _to_bytes(image: Image.Image, declared: int | None) -> UInt8[np.ndarray, "h w"]:
    """Gray of 16 bits by its depth; of 32 bits as it is when it fits in a byte, else stretched over its range."""
    pixels = np.asarray(image)
    if image.format == "PPM":  # scaled to 16 bits by Pillow
        pixels = pixels.astype(np.uint16)
    gray = to_bytes(pixels.astype(np.uint16), declared) if pixels.dtype.itemsize == 2 else _stretched(pixels)
    if white_is_zero(image):
        gray = 255 - gray
    gap = image.info.get("transparency")
    if isinstance(gap, int):
        gray[pixels == gap] = 255  # over white, as all that is transparent
    return gray


def _deep_colours(image: Image.Image, file: Any, declared: int | None, name: str) -> Image.Image:
    """Colours of 16 bits a channel, of which `image` holds the upper 8: by their depth, if that is less."""
    upper = np.asarray(image)
    colours = upper[..., : 1 if image.mode == "LA" else 3]
    if colours.max() >= 128:
        return image
    lower = lower_bytes(image, file) if file is not None else None
    if lower is None:
        if depth(int(colours.max()) << 8 | 255, declared) > 12:
            return image
        raise ImageError(
            f"{name} has 16 bits per channel and uses the lower ones only, so that it is nearly black; need 8 bits, or "
            "16 of which all are used: scale it, and save it again"
        )
    whole = upper.astype(np.uint16) << 8 | np.asarray(lower)
    parts = [to_bytes(whole[..., :3], declared), *(to_bytes(whole[..., 3:]) for _ in range(whole.shape[2] == 4))]
    return Image.fromarray(np.concatenate(parts, -1))


def _stretched(pixels: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    low, high = int(pixels.min()), int(pixels.max())
    if low >= 0 and high <= 255:
        return pixels.astype(np.uint8)
    return ((pixels.astype(np.float64) - low) * (255 / max(high - low, 1))).round().astype(np.uint8)


def check_size(width: int, height: int, name: str, max_pixels: int = MAX_PIXELS) -> None:
    if min(width, height) < 1:
        raise ImageError(f"{name} is empty ({width} x {height} pixels); need at least 1 x 1: export it again")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{name} has {width} x {height} pixels; need at most {max_pixels} in all: make it smaller first"
        )


@contextlib.contextmanager
def decoder_errors(name: str) -> Iterator[None]:
    """Every failure of a decoder, as an `ImageError`."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not an image; need {', '.join(formats())}: check the file, or save it as PNG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"{name} is too large; need at most {MAX_PIXELS} pixels: make it smaller first"
        ) from error
    except Exception as error:  # decoders raise dozens of types on damaged files; all mean the same to the user
        raise ImageError(
            f"{name} is cut short or damaged ({one_line(error)}); need a whole image: download or export it again"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings from Pillow: their cause is either harmless or ends in an error here."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def one_line(error: Exception) -> str:
    # An OSError's own text repeats the whole file name.
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
