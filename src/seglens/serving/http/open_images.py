"""Open images, kept for who knows their id: for a time, and up to so many bytes, the longest unused go first."""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from seglens.agent import ConversationImage
from seglens.core.object_memory import bytes_held
from seglens.inference.opened_image import OpenedImage
from seglens.serving.http.api_errors import ApiError, busy
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.schema import ImageAnswer

PREFIX = "img_"  # no base64 begins so: "_" is not of its letters


@dataclasses.dataclass(eq=False)
class Held:
    """An open image with what is known of its use."""

    id: str
    opened: OpenedImage
    bytes: int
    last: float  # when it was last used
    users: int = 0
    sight: ConversationImage | None = None  # what talks begin with; made by the first
    digest: str | None = None  # of the image as it was sent
    wanted: bool = True  # false: dropped as soon as nobody uses it


class Images:
    """By id, from any thread. An image under a request stays until the request has been answered.

    `now` is a clock in seconds that never goes back."""

    def __init__(self, most_bytes: int, ttl: float, metrics: Metrics, now: Callable[[], float] = monotonic):
        self.most_bytes, self.ttl, self.metrics, self._now = most_bytes, ttl, metrics, now
        self._held = OrderedDict[str, Held]()  # the longest unused first
        self._known = dict[str, str]()  # digests to ids
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, opened: OpenedImage, digest: str | None = None) -> ImageAnswer:
        """Keep an image; with a `digest`, `find` knows it again.

        Raises a Refusal when it is too large to be kept at all, or all others are in use."""
        held = Held(PREFIX + secrets.token_urlsafe(24), opened, bytes_of(opened), self._now(), digest=digest)
        if held.bytes > self.most_bytes:
            raise ApiError(
                413,
                "image_too_large",
                f"the open image takes {held.bytes} bytes; at most {self.most_bytes} are kept: make it smaller",
                "image",
            )
        with self._lock:
            self._expire()
            self._make_room(held.bytes)
            self._held[held.id] = held
            if digest is not None:
                self._known[digest] = held.id
            self._count(held.bytes)
            return self._said(held)

    @contextmanager
    def use(self, id: str) -> Iterator[Held]:
        """The image, for as long as a request needs it. Raises a Refusal (404) when it is not, or no longer, held."""
        with self._lock:
            held = self._find(id)
            held.users += 1
        try:
            yield held
        finally:
            self._release(held)

    def find(self, digest: str) -> str | None:
        """The id of an image that was put with this digest, while it is held."""
        with self._lock:
            self._expire()
            return self._known.get(digest)

    def describe(self, id: str) -> ImageAnswer:
        """Its state; looking is no use of it. Raises as `use`."""
        with self._lock:
            return self._said(self._find(id))

    def drop(self, id: str) -> None:
        """Forget an image at once; requests under way are still answered. Raises as `use`."""
        with self._lock:
            self._remove(self._find(id), "asked")

    def sweep(self) -> None:
        """Forget what has expired."""
        with self._lock:
            self._expire()

    def _find(self, id: str) -> Held:
        self._expire()
        if id not in self._held:
            raise ApiError(
                404,
                "image_not_found",
                f"there is no open image {id[:40]!r}: it has expired, made room for others or never was; "
                "send the image to /v1/images again",
                "image",
            )
        return self._held[id]

    def _release(self, held: Held) -> None:
        with self._lock:
            held.users -= 1
            if held.wanted:
                held.last = self._now()
                self._held.move_to_end(held.id)
                size = bytes_of(held.opened, held.sight)  # the first question leaves something behind
                self._count(size - held.bytes)
                held.bytes = size
            elif not held.users:
                self._count(-held.bytes)

    def _expire(self) -> None:
        for held in list(self._held.values()):
            if not held.users and self._now() - held.last >= self.ttl:
                self._remove(held, "expired")

    def _make_room(self, needed: int) -> None:
        for held in list(self._held.values()):
            if self._bytes + needed <= self.most_bytes:
                return
            if not held.users:
                self._remove(held, "room")
        if self._bytes + needed > self.most_bytes:
            raise busy("images_full", "the memory for open images is full of images in use; try again")

    def _remove(self, held: Held, reason: str) -> None:
        del self._held[held.id]
        held.wanted = False
        if self._known.get(held.digest or "") == held.id:
            del self._known[held.digest or ""]
        self.metrics.dropped.labels(reason).inc()
        self._count(0 if held.users else -held.bytes)

    def _said(self, held: Held) -> ImageAnswer:
        height, width = held.opened.image.shape[:2]
        left = self.ttl if held.users else max(0.0, self.ttl - (self._now() - held.last))
        return ImageAnswer(id=held.id, width=width, height=height, bytes=held.bytes, expires_in=round(left, 3))

    def _count(self, more: int) -> None:
        self._bytes += more
        self.metrics.images.set(len(self._held))
        self.metrics.images_bytes.set(self._bytes)


def bytes_of(opened: OpenedImage, sight: ConversationImage | None = None) -> int:
    """Memory of an open image's pixels, of what the MLLM and the mask decoder made of them, and of what the method
    and the router keep; what they share is counted once."""
    return bytes_held(opened.image, opened.seen, opened.embedding, opened.kept, sight)
