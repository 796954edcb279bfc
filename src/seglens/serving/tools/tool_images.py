"""Images that an agent names: through which doors they may come in, and which are still open."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections import OrderedDict
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from jaxtyping import UInt8

from seglens.data.image_decoding import ImageError
from seglens.data.images import load_image
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter
from seglens.serving.uploads import UploadLimits, decode_data_uri

MOST_OPEN = 8  # an open image of a 7B model holds some 140 MB
_ID = re.compile(r"image-[0-9a-f]{16}")  # base64 has no hyphen
_LONGEST_PATH = 4096


class Doors:
    """Text to pixels. base64 and data URIs are always taken; file paths only with `files`, from who may read them."""

    def __init__(self, limits: UploadLimits, files: bool = False):
        self.limits, self.files = limits, files

    def pixels(self, text: str) -> UInt8[np.ndarray, "h w 3"]:
        """Raises ImageError (see `decode_data_uri` and `load_image`) that says what is taken here."""
        path = self._path(text) if self.files else None
        return decode_data_uri(text, self.limits) if path is None else load_image(path, self.limits.pixels)

    def _path(self, text: str) -> Path | None:
        """The file that the text names; None when it is data. What is neither is told as a missing file."""
        if len(text) > _LONGEST_PATH or text.lstrip()[:5].lower() == "data:":
            return None
        if text.startswith("file:"):
            return Path(url2pathname(urlsplit(text).path))
        path = Path(os.path.expanduser(text))  # Path's own raises on the home of nobody
        return path if _is_there(path) or not _is_base64(text) else None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or a null character
        return False


def _is_base64(text: str) -> bool:
    """Whether a short text is the data of an image: of a JPEG, it begins with a slash."""
    return len(text) >= 64 and re.fullmatch(r"[A-Za-z0-9+/\s]+=*\s*", text) is not None


class OpenImages:
    """The images that were asked about last, by ids that nobody can guess who has not seen the image.

    The same pixels are the same image: sent again they cost nothing. For threads that take turns (`Turns`)."""

    def __init__(self, segmenter: Segmenter, most: int = MOST_OPEN):
        if most < 1:
            raise ValueError(f"got room for {most} open images; need at least 1")
        self.segmenter, self.most = segmenter, most
        self._key = secrets.token_bytes(16)
        self._open = OrderedDict[str, OpenedImage]()

    def add(self, pixels: UInt8[np.ndarray, "h w 3"]) -> str:
        """The id of an image, opened if it is new; the one that was used longest ago makes room."""
        name = self._name(pixels)
        if name in self._open:
            self._open.move_to_end(name)
            return name
        self._make_room()  # before it takes its memory
        opened = self.segmenter.open(pixels)
        self._make_room()  # others may have come meanwhile
        self._open[name] = opened
        return name

    def _make_room(self) -> None:
        while len(self._open) >= self.most:
            self._open.popitem(last=False)

    def get(self, name: str) -> OpenedImage:
        """Raises ImageError when there is no such image (any more)."""
        if name not in self._open:
            raise ImageError(
                f"there is no open image {name!r}; only the last {self.most} stay open: send the image itself again"
            )
        self._open.move_to_end(name)
        return self._open[name]

    def __len__(self) -> int:
        return len(self._open)

    def _name(self, pixels: UInt8[np.ndarray, "h w 3"]) -> str:
        digest = hashlib.blake2b(key=self._key, digest_size=8)
        digest.update(repr(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).data)
        return f"image-{digest.hexdigest()}"


def is_id(text: str) -> bool:
    """Whether the text is the id of an image, open or not."""
    return _ID.fullmatch(text) is not None
