"""The visits of a page: each under a key that only one browser tab knows, for a time and up to so much memory."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from time import monotonic

from seglens.serving.expiring_store import ExpiringStore, StoredItem
from seglens.serving.web.page_limits import PageLimits
from seglens.serving.web.visit import Visit


class Visits:
    """Visits by key, from any thread. Nothing is written to disk: they end with the process.

    `now` is a clock in seconds that never goes back."""

    def __init__(self, limits: PageLimits, now: Callable[[], float] = monotonic):
        self._memory = limits.memory
        self._store = ExpiringStore[Visit](ttl=limits.visit_seconds, max_items=limits.visits, now=now)

    def add(self, visit: Visit) -> str:
        """Store it. Returns its key: 256 random bits, so that nobody guesses the key of another visit."""
        return self._store.add(secrets.token_urlsafe(32), visit).key

    def find(self, key: str) -> Visit | None:
        """The visit of that key, which counts as used now; None when it was removed or never existed."""
        with self._store.lock:
            item = self._store.find(key)
            if item is None:
                return None
            self._store.touch(item)
            return item.value

    def measure(self, key: str) -> None:
        """Measure a visit again, and make room when all of them take too much memory: the longest unused ones lose
        first what can be computed again, then they are removed, one after the other; last go this visit's steps."""
        with self._store.lock:
            mine = self._store.find(key)
            if mine is None:
                return
            self._resize(mine)
            others = [item for item in self._store.items() if item is not mine]
            for other in others:
                if self._is_full() and other.value.busy is None:
                    other.value.release()
                    self._resize(other)
            for other in others:
                if self._is_full():
                    self._store.remove(other)
            while self._is_full() and mine.value.forget_step():
                self._resize(mine)

    def __len__(self) -> int:
        return len(self._store)

    def _is_full(self) -> bool:
        return self._store.bytes > self._memory

    def _resize(self, item: StoredItem[Visit]) -> None:
        self._store.resize(item, item.value.bytes)
