"""Work that nobody waits for any more ends at its next safe point.

Who runs work for others says by `interruptible` how to tell whether it is still wanted. Work says by `safe_point` where
it may end: between questions, clicks, tokens and bands of rows. It reaches through all that lies between the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_check: ContextVar[Callable[[], None] | None] = ContextVar("_check", default=None)


class GivenUpError(Exception):
    """Nobody waits for this work any more."""


def safe_point() -> None:
    """Raises what the check of `interruptible` raises; nothing outside of one."""
    check = _check.get()
    if check is not None:
        check()


@contextmanager
def interruptible(check: Callable[[], None]) -> Iterator[None]:
    """Within it, in this thread, `check` is called at every safe point; it raises GivenUpError to end the work."""
    before = _check.set(check)
    try:
        yield
    finally:
        _check.reset(before)
