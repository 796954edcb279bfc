"""Any image a user may have, as uint8 RGB, or one line that says why not."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, UnidentifiedImageError

from seglens.data.bit_depth import (
    depth,
    is_deep_colour,
    is_signed_byte,
    lower_bytes,
    opened_from,
    to_bytes,
    told_depth,
    white_is_zero,
)

# Twice Pillow's warning level, which is where Pillow itself refuses: 0.5 GiB of RGB.
MAX_PIXELS = 178_956_970
# Named, because Pillow would otherwise try every format it knows, among them EPS, which runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
HEIF = "HEIF"  # what telephones save; Pillow reads it through a plugin of its own package
PLUGIN = "pillow-heif"
TIFF = (b"II*\0", b"MM\0*")  # how a file begins
_FLOATS = frozenset((".pfm",))  # a kind of PPM, of unknown scale: depths, never photographs

T = TypeVar("T")
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
    """An image that cannot be used: one line with what came, what is needed and what to do."""


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


def load_image(
    source: str | Path | Image.Image | np.ndarray | bytes, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels, 0..255, of a file, its bytes, a PIL image or a uint8 array ("h w", "h w 3" or "h w 4").

    The result is the caller's own copy: turned upright by EXIF, transparency over white, the first frame of an
    animation (a PIL image: the frame it is at), 16 bits by the depth that they use (`seglens.data.bit_depth`), wider
    integers by their range.

    Raises ``ImageError``, and nothing else, on what is missing, damaged, empty, not an image, over ``max_pixels``
    (told by the header, before decoding), of unknown scale (floats), or on the network.
    """
    decode = partial(_decode, max_pixels=min(max_pixels, MAX_PIXELS))
    if isinstance(source, np.ndarray):
        return _from_array(source, decode)
    if isinstance(source, Image.Image):
        return decode(source, "the PIL image")
    if isinstance(source, bytes):
        return _open(io.BytesIO(source), f"the image of {len(source)} bytes", decode)
    if isinstance(source, str | Path):
        return _from_path(source, decode)
    raise ImageError(
        f"got {type(source).__name__} for an image; need a path, a PIL image, a uint8 array or the bytes of a file"
    )


def load_stored(path: str | Path) -> Image.Image:
    """The picture of a file with its values as they are stored (palette indices, 1, 8 or 16 bits, alpha), upright.

    Raises ``ImageError`` where `load_image` does, but for modes of unknown scale."""
    return _from_path(path, _stored)


def orientation(path: str | Path) -> int:
    """The EXIF orientation of a file, 1 (also when it has none) to 8. Raises ``ImageError`` on what is no image."""
    return _from_path(path, lambda image, name: _orientation(image))


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
    _check_size(array.shape[1], array.shape[0], name)
    return decode(Image.fromarray(np.ascontiguousarray(array)), name)


def _from_path(source: str | Path, then: Callable[[Image.Image, str], T]) -> T:
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
            f"{name} cannot be read ({_line(error)}); need a readable file: check name and rights"
        ) from error


def _open(file: io.BufferedReader | io.BytesIO, name: str, then: Callable[[Image.Image, str], T]) -> T:
    with _refusals(name), _quiet():
        image = Image.open(file, formats=formats())
    with image:
        return then(image, name)


def _decode(image: Image.Image, name: str, max_pixels: int) -> UInt8[np.ndarray, "h w 3"]:
    _check_size(*image.size, name, max_pixels)
    with _refusals(name), _quiet():
        told, deep, file = told_depth(image), is_deep_colour(image), opened_from(image)
        if is_signed_byte(image):
            raise ImageError(f"{name} has signed bytes, of unknown zero; need unsigned ones, 0 to 255: convert it")
        image.load()
        turn = _TURNS.get(_orientation(image))  # not before: Pillow turns a TIFF when it reads it
        if deep:
            image = _deep_colours(image, file, told, name)
        elif image.mode.startswith("I"):
            image = Image.fromarray(_to_bytes(image, told))
        return np.array(_to_rgb(_turned(image, turn), name))


def _stored(image: Image.Image, name: str) -> Image.Image:
    _check_size(*image.size, name)
    with _refusals(name), _quiet():
        image.load()
        turn = _TURNS.get(_orientation(image))
        if white_is_zero(image):
            image = Image.fromarray(65535 - np.asarray(image))
        return _turned(image, turn)


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # a photograph with a broken EXIF block is still a photograph
        said = image.getexif().get(_ORIENTATION)
        return said if said in _TURNS else 1
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


def _to_bytes(image: Image.Image, said: int | None) -> UInt8[np.ndarray, "h w"]:
    """Gray of 16 bits by its depth; of 32 bits as it is when it fits in a byte, else stretched over its range."""
    pixels = np.asarray(image)
    if image.format == "PPM":  # scaled to 16 bits by Pillow
        pixels = pixels.astype(np.uint16)
    gray = to_bytes(pixels.astype(np.uint16), said) if pixels.dtype.itemsize == 2 else _stretched(pixels)
    if white_is_zero(image):
        gray = 255 - gray
    gap = image.info.get("transparency")
    if isinstance(gap, int):
        gray[pixels == gap] = 255  # over white, as all that is transparent
    return gray


def _deep_colours(image: Image.Image, file: Any, said: int | None, name: str) -> Image.Image:
    """Colours of 16 bits a channel, of which `image` holds the upper 8: by their depth, if that is less."""
    upper = np.asarray(image)
    colours = upper[..., : 1 if image.mode == "LA" else 3]
    if colours.max() >= 128:
        return image
    lower = lower_bytes(image, file) if file is not None else None
    if lower is None:
        if depth(int(colours.max()) << 8 | 255, said) > 12:
            return image
        raise ImageError(
            f"{name} has 16 bits per channel and uses the lower ones only, so that it is nearly black; need 8 bits, or "
            "16 of which all are used: scale it, and save it again"
        )
    whole = upper.astype(np.uint16) << 8 | np.asarray(lower)
    parts = [to_bytes(whole[..., :3], said), *(to_bytes(whole[..., 3:]) for _ in range(whole.shape[2] == 4))]
    return Image.fromarray(np.concatenate(parts, -1))


def _stretched(pixels: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    low, high = int(pixels.min()), int(pixels.max())
    if low >= 0 and high <= 255:
        return pixels.astype(np.uint8)
    return ((pixels.astype(np.float64) - low) * (255 / max(high - low, 1))).round().astype(np.uint8)


def _check_size(width: int, height: int, name: str, max_pixels: int = MAX_PIXELS) -> None:
    if min(width, height) < 1:
        raise ImageError(f"{name} is empty ({width} x {height} pixels); need at least 1 x 1: export it again")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{name} has {width} x {height} pixels; need at most {max_pixels} in all: make it smaller first"
        )


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Every way in which a decoder can fail, as an `ImageError`."""
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
    except Exception as error:  # decoders raise dozens of types on damaged files; each means the same to the user
        raise ImageError(
            f"{name} is cut short or damaged ({_line(error)}); need a whole image: download or export it again"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warning from Pillow: whatever it hints at is either harmless or ends in an error here."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _line(error: Exception) -> str:
    # An OSError's own text repeats the whole file name.
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


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
