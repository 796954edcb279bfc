"""PNG files. Pictures made by SegLens are marked as such, so that a mask is not taken for a photograph."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

from PIL import Image, PngImagePlugin

KEY = "Software"
MAKERS = {"result": "SegLens", "copy": "SegLens, a copy"}  # a copy of a picture, for formats that need it beside them
_WITHIN = 128  # bytes: Pillow writes texts directly after the header

Mark = Literal["result", "copy"]


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def marked_png(image: Image.Image, mark: Mark = "result", compress_level: int = 6, **texts: str) -> bytes:
    """The image as a lossless PNG file that names SegLens as its maker, with further `texts` by their keywords."""
    words = PngImagePlugin.PngInfo()
    for key, text in {KEY: MAKERS[mark], **texts}.items():
        words.add_text(key, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=words, compress_level=compress_level)
    return buffer.getvalue()


def mark_of(path: Path) -> Mark | None:
    """How a file is marked; None also for one that cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(_WITHIN)
    except OSError:
        return None
    name = start.partition(f"tEXt{KEY}\0".encode())[2]
    marks: tuple[Mark, ...] = ("copy", "result")  # the longer text first
    return next((mark for mark in marks if name.startswith(MAKERS[mark].encode())), None)
