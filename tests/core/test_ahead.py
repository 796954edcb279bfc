"""Items that a thread makes before they are used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from seglens.core.ahead import ahead


def test_items_come_in_their_order_and_an_error_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise OSError("the disk is gone")

    taken = list[int]()
    with pytest.raises(OSError, match="the disk is gone"):
        taken += (item for item in ahead(items(), 2, 100, lambda item: 1))
    with closing(ahead(items(), 2, 100, lambda item: 1)) as some:
        assert [next(some) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(OSError, match="the disk is gone"):
            next(some)


@pytest.mark.parametrize(("count", "weight"), [(2, 100), (100, 4)])
def test_the_thread_pauses_at_a_number_of_items_or_at_their_weight(count: int, weight: int) -> None:
    """Beside the item that is used, two wait (of weight 2 each) and the thread makes no other."""
    made, two = list[int](), threading.Event()

    def items() -> Iterator[int]:
        for number in range(9):
            made.append(number)
            if number == 3:
                two.set()
            yield number

    with closing(ahead(items(), count, weight, lambda item: 2)) as some:
        assert next(some) == 0
        assert not two.wait(0.05)
        assert made in ([0, 1], [0, 1, 2])
        assert next(some) == 1
        assert two.wait(10)


def test_the_thread_ends_when_its_items_are_no_longer_used() -> None:
    before = threading.active_count()
    with closing(ahead(iter(range(10**9)), 3, 100, lambda item: 1)) as some:
        assert next(some) == 0
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
