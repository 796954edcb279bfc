"""Pictures that SegLens made are marked as such, so that nobody takes a mask for a photograph."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, PngImagePlugin

KEY, MAKER = "Software", "SegLens"
_TEXT = f"tEXt{KEY}\0{MAKER}".encode()  # as it stands in the file: Pillow writes texts right behind the header
_WITHIN = 128  # bytes


def marked_png(image: Image.Image, compress_level: int = 6, **texts: str) -> bytes:
    """The image as a lossless PNG file that says who made it, with further `texts` by their keywords."""
    words = PngImagePlugin.PngInfo()
    for key, text in {KEY: MAKER, **texts}.items():
        words.add_text(key, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=words, compress_level=compress_level)
    return buffer.getvalue()


def is_marked(path: Path) -> bool:
    """Whether a file is a PNG that SegLens made; False also for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return _TEXT in file.read(_WITHIN)
    except OSError:
        return False
