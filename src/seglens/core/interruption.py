"""Work that nobody waits for any more ends at its next safe point, and work that is long lets others in there.

Who runs work for others says by `interruptible` how to tell whether it is still wanted, and by `Turns` that the model
is not its alone. Work says by `safe_point` where it may end or rest: between questions, clicks, tokens and bands of
rows. It reaches through all that lies between the two."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event, Lock
from time import monotonic

SLICE = 0.1  # seconds at a time that work has the model while others wait
ABREAST = 8  # pieces of work that are begun at a time: each holds memory of its own

_check: ContextVar[Callable[[], None] | None] = ContextVar("_check", default=None)
_rested: ContextVar[float] = ContextVar("_rested", default=0.0)


class GivenUpError(Exception):
    """Nobody waits for this work any more."""


def safe_point() -> None:
    """Raises what the check of `interruptible` raises; nothing outside of one."""
    check = _check.get()
    if check is not None:
        check()


@contextmanager
def interruptible(check: Callable[[], None]) -> Iterator[None]:
    """Within it, in this thread, `check` is called at every safe point; it raises GivenUpError to end the work. One
    within another: first the outer one's."""
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
    """Many threads' work on one model, one at a time and in the order in which they came. Work that has had the model
    for `seconds` goes behind those who wait, at its next safe point, and then goes on where it was: what comes out is
    the same, to the last bit.

    `now` is a clock in seconds that never goes back; `worked` is told of every stretch of work."""

    def __init__(
        self,
        seconds: float = SLICE,
        now: Callable[[], float] = monotonic,
        worked: Callable[[float], object] = lambda seconds: None,
    ):
        self.seconds, self._now, self._worked = seconds, now, worked
        self._lock, self._line = Lock(), deque[Event]()  # who waits
        self._taken, self._since = False, 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within it the model is this thread's, but for the rests at safe points. Not one within another."""
        with self._lock:
            mine = Event()
            if self._taken:
                self._line.append(mine)
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
            if self._line:
                self._line.popleft().set()
            else:
                self._taken = False

    def _give_way(self) -> None:
        spent = self._now() - self._since
        if not self._line or spent < self.seconds:
            return
        self._worked(spent)
        with self._lock:
            mine = Event()
            self._line.append(mine)
            self._line.popleft().set()
        self._wait(mine)

    def _wait(self, mine: Event) -> None:
        began = self._now()
        mine.wait()
        self._since = self._now()
        _rested.set(_rested.get() + self._since - began)
