"""Images that an agent names: which texts are read as an image, and which images are still open."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from jaxtyping import UInt8

from seglens.data.image_decoding import ImageError
from seglens.data.images import load_image
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter
from seglens.serving.expiring_store import ExpiringStore
from seglens.serving.limits import Limits
from seglens.serving.uploads import decode_data_uri

MAX_OPEN_IMAGES = 8  # an open image of a 7B model takes about 140 MB
_ID = re.compile(r"image-[0-9a-f]{16}")  # base64 has no hyphen
_MAX_PATH = 4096  # characters


class ImageReader:
    """Text to pixels. base64 and data URIs are always read; file paths only with `files`, for clients on this machine
    that may read its files."""

    def __init__(self, limits: Limits, files: bool = False):
        self.limits, self.files = limits, files

    def read(self, text: str) -> UInt8[np.ndarray, "h w 3"]:
        """Raises ImageError (see `decode_data_uri` and `load_image`) that states which texts are read here."""
        path = self._path(text) if self.files else None
        return decode_data_uri(text, self.limits) if path is None else load_image(path, self.limits.pixels)

    def _path(self, text: str) -> Path | None:
        """The file that the text names; None when it is data. What is neither is reported as a missing file."""
        if len(text) > _MAX_PATH or text.lstrip()[:5].lower() == "data:":
            return None
        if text.startswith("file:"):
            return Path(url2pathname(urlsplit(text).path))
        path = Path(os.path.expanduser(text))  # Path.expanduser raises for a user that does not exist
        return path if _exists(path) or not _is_base64(text) else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or a null character
        return False


def _is_base64(text: str) -> bool:
    """Whether a short text is the data of an image; that of a JPEG begins with a slash, as a path does."""
    return len(text) >= 64 and re.fullmatch(r"[A-Za-z0-9+/\s]+=*\s*", text) is not None


class OpenImages:
    """The images that were used last, by ids that nobody can guess without the image.

    The same pixels are the same image: to send it again costs nothing. For threads that take turns (`Turns`)."""

    def __init__(self, segmenter: Segmenter, max_images: int = MAX_OPEN_IMAGES):
        if max_images < 1:
            raise ValueError(f"got room for {max_images} open images; need at least 1")
        self.segmenter, self.max_images = segmenter, max_images
        self._key = secrets.token_bytes(16)
        self._store = ExpiringStore[OpenedImage](max_items=max_images)

    def add(self, pixels: UInt8[np.ndarray, "h w 3"]) -> str:
        """The id of an image, opened if it is new; the longest unused image makes room."""
        id = self._id(pixels)
        if not self._touch(id):
            self._store.make_room()  # before the new image takes its memory
            opened = self.segmenter.open(pixels)
            if not self._touch(id):  # another thread may have opened it meanwhile
                self._store.add(id, opened)
        return id

    def get(self, id: str) -> OpenedImage:
        """Raises ImageError when no such image is open (any more)."""
        opened = self._touch(id)
        if opened is None:
            raise ImageError(
                f"there is no open image {id!r}; only the last {self.max_images} stay open: send the image itself again"
            )
        return opened

    def __len__(self) -> int:
        return len(self._store)

    def _touch(self, id: str) -> OpenedImage | None:
        item = self._store.find(id)
        if item is None:
            return None
        self._store.touch(item)
        return item.value

    def _id(self, pixels: UInt8[np.ndarray, "h w 3"]) -> str:
        digest = hashlib.blake2b(key=self._key, digest_size=8)
        digest.update(repr(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).data)
        return f"image-{digest.hexdigest()}"


def is_id(text: str) -> bool:
    """Whether the text is the id of an image, open or not."""
    return _ID.fullmatch(text) is not None
