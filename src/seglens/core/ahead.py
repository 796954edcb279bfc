"""Items that a thread makes while earlier ones are used: pictures are decoded beside the computation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from threading import Condition, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class _Shelf(Generic[T]):
    """Items between the thread that makes them and the one that uses them."""

    def __init__(self, count: int, weight: int):
        self.count, self.weight = count, weight
        self.waiting, self.changed = deque[tuple[T, int]](), Condition()
        self.closed = self.ended = False
        self.error: BaseException | None = None

    def fill(self, items: Iterator[T], weigh: Callable[[T], int]) -> None:
        try:
            for item in items:
                self._put(item, weigh(item))
                del item  # what is used up need not wait for the next one
                if self.closed:
                    break
        except BaseException as error:  # raised again where the item would have come
            self.error = error
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _put(self, item: T, weight: int) -> None:
        with self.changed:
            self.waiting.append((item, weight))
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.closed or self._has_room())

    def _has_room(self) -> bool:
        return len(self.waiting) < self.count and sum(weight for _, weight in self.waiting) < self.weight

    def items(self) -> Iterator[T]:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.ended)
                if not self.waiting:
                    break
                item, _ = self.waiting.popleft()
                self.changed.notify_all()
            yield item
            del item
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def ahead(items: Iterable[T], count: int, weight: int, weigh: Callable[[T], int]) -> Generator[T]:
    """The items in their order, each made by a thread while the caller uses those before it. The thread pauses while
    `count` items wait, or items of `weight` together. An error is raised in the place of its item; when the caller
    stops, the thread ends after the item it is making."""
    shelf = _Shelf[T](count, weight)
    thread = Thread(target=shelf.fill, args=(iter(items), weigh), daemon=True)
    thread.start()
    try:
        yield from shelf.items()
    finally:
        shelf.close()
        thread.join()
