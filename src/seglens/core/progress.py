"""How far some long work has come, on standard error: a bar on a terminal, and now and then a line in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

INTERVAL = 30.0  # seconds between two lines where there is no bar
T = TypeVar("T")


@contextmanager
def progress(doing: str, total: int | None, done: int = 0, hidden: bool = False) -> Iterator[Callable[..., None]]:
    """Gives a function that adds to the number of finished items (by default 1), and shows named numbers beside it.
    `total` is None where the number of items is not known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # rich would send what is printed to the bar's own stream, and a pipe that reads standard output would get nothing
    together = sys.stdout.isatty()
    bar = Progress(
        *columns,
        TextColumn("{task.fields[terms]}"),
        console=console,
        disable=hidden or not console.is_terminal,
        redirect_stdout=together,
    )
    lines = not hidden and not console.is_terminal
    last = time.monotonic()
    with bar:
        task = bar.add_task(doing, total=total, completed=done, terms="")

        def advance(count: int = 1, terms: Mapping[str, float] | None = None) -> None:
            nonlocal done, last
            done += count
            text = " ".join(f"{name} {value:.3f}" for name, value in (terms or {}).items())
            bar.update(task, completed=done, terms=text)
            if lines and (done == total or time.monotonic() - last > INTERVAL):
                last = time.monotonic()
                of = "" if total is None else f" of {total}"
                print(f"{doing}: {done}{of} {text}".rstrip(), file=sys.stderr, flush=True)

        yield advance


def tracked(items: Sequence[T], doing: str, hidden: bool = False) -> Iterable[T]:
    """The items, with the progress through them shown."""
    with progress(doing, len(items), hidden=hidden) as advance:
        for item in items:
            yield item
            advance()
