"""The one store of the server, the tools and the page: items by key, for a time and up to a number of items and bytes.

Our own and not cachetools': its caches drop items that are in use, do not extend an item's time at each use, and
measure an item only when it is added."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Reason = Literal["expired", "room", "asked"]  # why an item was removed; "room" is for others


class StoreFullError(Exception):
    """There is no room, because all items that could be removed are in use."""


@dataclass(eq=False)
class StoredItem(Generic[T]):
    """A value with the record of its use."""

    key: str
    value: T
    bytes: int
    last_used: float  # seconds
    users: int = 0
    removed: bool = False


class ExpiringStore(Generic[T]):
    """Items by key, from any thread. An item expires `ttl` seconds after its last use; the longest unused ones make
    room for new ones. Items in use stay until they are released; their bytes count until then.

    `now` is a clock in seconds that never goes back. `on_remove` and `on_change` are called under the `lock`."""

    def __init__(
        self,
        *,
        ttl: int | float = math.inf,
        max_items: int | float = math.inf,
        max_bytes: int | float = math.inf,
        now: Callable[[], float] = monotonic,
        on_remove: Callable[[StoredItem[T], Reason], None] = lambda item, reason: None,
        on_change: Callable[[], None] = lambda: None,
    ):
        self.ttl, self.max_items, self.max_bytes = ttl, max_items, max_bytes
        self.bytes = 0
        self.lock = threading.RLock()
        self._items = OrderedDict[str, StoredItem[T]]()  # the longest unused first
        self._now, self._on_remove, self._on_change = now, on_remove, on_change

    def add(self, key: str, value: T, bytes: int = 0) -> StoredItem[T]:
        """Store a value under a new key. Raises StoreFullError when too much is in use."""
        with self.lock:
            self.make_room(bytes)
            item = self._items[key] = StoredItem(key, value, bytes, self._now())
            self._count(bytes)
            return item

    def make_room(self, bytes: int = 0) -> None:
        """Remove expired items, and then the longest unused ones until one more item fits. Raises StoreFullError."""
        with self.lock:
            self.expire()
            for item in self.items():
                if self._fits(bytes):
                    return
                if not item.users:
                    self.remove(item, "room")
            if not self._fits(bytes):
                raise StoreFullError

    def find(self, key: str) -> StoredItem[T] | None:
        """The item of that key; to find it is no use of it."""
        with self.lock:
            self.expire()
            return self._items.get(key)

    def touch(self, item: StoredItem[T]) -> None:
        """Count the item as used now."""
        with self.lock:
            if not item.removed:
                item.last_used = self._now()
                self._items.move_to_end(item.key)

    @contextmanager
    def use(self, item: StoredItem[T]) -> Iterator[T]:
        """Within it the item is in use. It may be removed meanwhile by `remove` alone."""
        with self.lock:
            item.users += 1
        try:
            yield item.value
        finally:
            with self.lock:
                item.users -= 1
                self.touch(item)
                if item.removed and not item.users:
                    self._count(-item.bytes)

    def resize(self, item: StoredItem[T], bytes: int) -> None:
        """Record how many bytes the item takes now."""
        with self.lock:
            if not item.removed:
                self._count(bytes - item.bytes)
                item.bytes = bytes

    def remove(self, item: StoredItem[T], reason: Reason = "asked") -> None:
        """Remove an item at once, also one in use."""
        with self.lock:
            del self._items[item.key]
            item.removed = True
            self._on_remove(item, reason)
            self._count(0 if item.users else -item.bytes)

    def expire(self) -> None:
        """Remove what was unused for too long."""
        with self.lock:
            for item in self.items():
                if self.seconds_left(item) <= 0:
                    self.remove(item, "expired")

    def seconds_left(self, item: StoredItem[T]) -> int | float:
        """Until the item expires; of an item in use, from its release on."""
        return self.ttl if item.users else max(0.0, self.ttl - (self._now() - item.last_used))

    def items(self) -> list[StoredItem[T]]:
        """All items, the longest unused first."""
        return list(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def _fits(self, bytes: int) -> bool:
        return len(self) < self.max_items and self.bytes + bytes <= self.max_bytes

    def _count(self, bytes: int) -> None:
        self.bytes += bytes
        self._on_change()
