"""Who is visiting: each under a key that only their own tab knows, for a time and up to so much memory."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from seglens.serving.web.limits import PageLimits
from seglens.serving.web.session import Visit


@dataclass(eq=False)
class KeptVisit:
    """A visit, when it was last used (seconds) and the bytes that it held then."""

    visit: Visit
    last: float
    bytes: int = 0


class Visits:
    """Visits by key, from any thread. Nothing is written to disk: they end with the process.

    `now` is a clock in seconds that never goes back."""

    def __init__(self, limits: PageLimits, now: Callable[[], float] = monotonic):
        self._limits, self._now = limits, now
        self._kept = OrderedDict[str, KeptVisit]()  # who was away longest comes first
        self._lock = threading.Lock()

    def add(self, visit: Visit) -> str:
        """Keep it. Returns its key: 256 random bits, so that nobody guesses another one's."""
        key = secrets.token_urlsafe(32)
        with self._lock:
            self._kept[key] = KeptVisit(visit, self._now())
            self._forget()
        return key

    def find(self, key: str) -> Visit | None:
        """The visit of that key, which counts as used now; None when it was forgotten or never was."""
        with self._lock:
            self._forget()
            kept = self._kept.get(key)
            if kept is None:
                return None
            kept.last = self._now()
            self._kept.move_to_end(key)
            return kept.visit

    def weigh(self, key: str) -> None:
        """Measure a visit anew, and make room when all of them hold too much: those who were away longest lose first
        what can be made again, and then, one after the other, all."""
        with self._lock:
            if key not in self._kept:
                return
            self._kept[key].bytes = self._kept[key].visit.bytes
            for other, kept in self._kept.items():
                if self._bytes() > self._limits.memory and other != key and kept.visit.busy is None:
                    kept.visit.rest()
                    kept.bytes = kept.visit.bytes
            while self._bytes() > self._limits.memory and len(self._kept) > 1:
                self._drop_first(key)
            while self._bytes() > self._limits.memory and self._kept[key].visit.forget_step():
                self._kept[key].bytes = self._kept[key].visit.bytes

    def __len__(self) -> int:
        return len(self._kept)

    def _bytes(self) -> int:
        return sum(kept.bytes for kept in self._kept.values())

    def _drop_first(self, key: str) -> None:
        del self._kept[next(other for other in self._kept if other != key)]

    def _forget(self) -> None:
        """Who was away too long, and who is one too many."""
        for key, kept in list(self._kept.items()):
            if self._now() - kept.last >= self._limits.forget or len(self._kept) > self._limits.visitors:
                del self._kept[key]
