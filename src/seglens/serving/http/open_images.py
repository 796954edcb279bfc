"""Open images of the server, stored for clients that know their id: for a time, and up to a number of bytes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic

from seglens.agent import ConversationImage
from seglens.core.object_memory import bytes_held
from seglens.inference.opened_image import OpenedImage
from seglens.serving.expiring_store import ExpiringStore, Reason, StoredItem, StoreFullError
from seglens.serving.http.api_errors import ApiError, busy
from seglens.serving.http.metrics import Metrics
from seglens.serving.http.schema import ImageAnswer

PREFIX = "img_"  # no base64 begins so: "_" is not one of its letters


@dataclass(eq=False)
class StoredImage:
    """An open image of the server."""

    id: str
    opened: OpenedImage
    digest: str | None = None  # of the image as it was sent
    conversation_image: ConversationImage | None = None  # computed by the first chat about it

    @property
    def bytes(self) -> int:
        return bytes_of(self.opened, self.conversation_image)


class ImageStore:
    """Open images by id, from any thread. An image that a request uses stays until the request has been answered.

    `now` is a clock in seconds that never goes back."""

    def __init__(self, max_bytes: int, ttl: float, metrics: Metrics, now: Callable[[], float] = monotonic):
        self.metrics, self.ttl = metrics, ttl
        self._ids = dict[str, str]()  # by digest
        self._store = ExpiringStore[StoredImage](
            ttl=ttl, max_bytes=max_bytes, now=now, on_remove=self._removed, on_change=self._measure
        )

    def put(self, opened: OpenedImage, digest: str | None = None) -> ImageAnswer:
        """Store an image; `find` finds it by its `digest`.

        Raises an ApiError when it is larger than all the memory for open images, or all others are in use."""
        image = StoredImage(PREFIX + secrets.token_urlsafe(24), opened, digest)
        size, limit = image.bytes, self._store.max_bytes
        if size > limit:
            raise ApiError(
                413,
                "image_too_large",
                f"the open image takes {size} bytes; at most {limit} are kept: make it smaller",
                "image",
            )
        with self._store.lock:
            try:
                item = self._store.add(image.id, image, size)
            except StoreFullError:
                text = "the memory for open images is full of images in use; try again"
                raise busy("images_full", text) from None
            if digest is not None:
                self._ids[digest] = image.id
            return self._answer(item)

    @contextmanager
    def use(self, id: str) -> Iterator[StoredImage]:
        """The image, for as long as a request needs it. Raises an ApiError (404) when no such image is stored."""
        with ExitStack() as stack:
            with self._store.lock:  # found and in use at once, so that nothing removes it between
                item = self._find(id)
                image = stack.enter_context(self._store.use(item))
            try:
                yield image
            finally:
                self._store.resize(item, image.bytes)  # the first question adds what the method stores

    def find(self, digest: str) -> str | None:
        """The id of an image that was put with this digest, while it is stored."""
        with self._store.lock:
            self._store.expire()
            return self._ids.get(digest)

    def describe(self, id: str) -> ImageAnswer:
        """Its state; this does not count as a use. Raises as `use`."""
        with self._store.lock:
            return self._answer(self._find(id))

    def drop(self, id: str) -> None:
        """Remove an image at once; requests that use it are still answered. Raises as `use`."""
        with self._store.lock:
            self._store.remove(self._find(id))

    def sweep(self) -> None:
        """Remove what has expired."""
        self._store.expire()

    def _find(self, id: str) -> StoredItem[StoredImage]:
        item = self._store.find(id)
        if item is None:
            raise ApiError(
                404,
                "image_not_found",
                f"there is no open image {id[:40]!r}: it has expired, made room for others or never was; "
                "send the image to /v1/images again",
                "image",
            )
        return item

    def _answer(self, item: StoredItem[StoredImage]) -> ImageAnswer:
        height, width = item.value.opened.image.shape[:2]
        left = round(self._store.seconds_left(item), 3)
        return ImageAnswer(id=item.key, width=width, height=height, bytes=item.bytes, expires_in=left)

    def _removed(self, item: StoredItem[StoredImage], reason: Reason) -> None:
        digest = item.value.digest or ""
        if self._ids.get(digest) == item.key:
            del self._ids[digest]
        self.metrics.dropped.labels(reason).inc()

    def _measure(self) -> None:
        self.metrics.images.set(len(self._store))
        self.metrics.images_bytes.set(self._store.bytes)


def bytes_of(opened: OpenedImage, conversation_image: ConversationImage | None = None) -> int:
    """Memory of an open image's pixels, of what the MLLM and the mask decoder computed from them, and of what the
    method and the router store; what they share is counted once."""
    return bytes_held(opened.image, opened.seen, opened.embedding, opened.precomputed, conversation_image)
