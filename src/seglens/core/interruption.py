"""Work whose result is no longer needed ends at its next safe point, and long work lets other work in there.

Code that runs work for others gives `interruptible` a check whether the work is still needed, and uses `Turns` to share
the model. The work calls `safe_point` where it may end or pause: between questions, clicks, tokens and bands of rows.
Functions between the two need no argument for this."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event, Lock
from time import monotonic

SLICE = 0.1  # seconds for which work has the model at a time while other work waits
MOST_STARTED = 8  # tasks that are started at a time: each uses memory

_check: ContextVar[Callable[[], None] | None] = ContextVar("_check", default=None)
_rested: ContextVar[float] = ContextVar("_rested", default=0.0)


class GivenUpError(Exception):
    """The result of this work is no longer needed."""


def safe_point() -> None:
    """Raises what the check of `interruptible` raises; does nothing outside of one."""
    check = _check.get()
    if check is not None:
        check()


@contextmanager
def interruptible(check: Callable[[], None]) -> Iterator[None]:
    """Inside it, in this thread, `check` is called at every safe point; it raises GivenUpError to end the work. Of
    nested ones, the outer check is called first."""
    outer = _check.get()

    def both() -> None:
        if outer is not None:
            outer()
        check()

    before = _check.set(both)
    try:
        yield
    finally:
        _check.reset(before)


def rested() -> float:
    """Seconds for which the work of this thread waited for its turns."""
    return _rested.get()


class Turns:
    """Work of many threads on one model, one at a time and in the order of arrival. Work that has had the model for
    `seconds` moves to the end of the queue, at its next safe point, and continues later where it was: the result is the
    same, to the last bit.

    `now` is a clock in seconds that never goes back; `worked` is called with the seconds of each period of work."""

    def __init__(
        self,
        seconds: float = SLICE,
        now: Callable[[], float] = monotonic,
        worked: Callable[[float], object] = lambda seconds: None,
    ):
        self.seconds, self._now, self._worked = seconds, now, worked
        self._lock, self._queue = Lock(), deque[Event]()  # of waiting threads
        self._taken, self._since = False, 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Inside it this thread has the model, except for pauses at safe points. Turns are not nested."""
        with self._lock:
            mine = Event()
            if self._taken:
                self._queue.append(mine)
            else:
                self._taken = True
                mine.set()
        self._wait(mine)
        try:
            with interruptible(self._give_way):
                yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self._worked(self._now() - self._since)
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._taken = False

    def _give_way(self) -> None:
        spent = self._now() - self._since
        if not self._queue or spent < self.seconds:
            return
        self._worked(spent)
        with self._lock:
            mine = Event()
            self._queue.append(mine)
            self._queue.popleft().set()
        self._wait(mine)

    def _wait(self, mine: Event) -> None:
        began = self._now()
        mine.wait()
        self._since = self._now()
        _rested.set(_rested.get() + self._since - began)
