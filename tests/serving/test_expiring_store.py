"""The one store of open images and visits: its times, its limits, and items in use."""

from __future__ import annotations

import pytest

from seglens.serving.expiring_store import ExpiringStore, StoredItem, StoreFullError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def keys(store: ExpiringStore[str]) -> list[str]:
    return [item.key for item in store.items()]


def test_each_use_extends_the_time_and_finding_does_not() -> None:
    clock = Clock()
    store = ExpiringStore[str](ttl=10, now=clock)
    item, other = store.add("a", "A"), store.add("b", "B")
    clock.now = 9.0
    store.touch(item)
    assert store.find("b") is other
    clock.now = 10.0
    assert keys(store) == ["b", "a"], "only a further call removes it"
    assert store.find("b") is None
    assert store.seconds_left(item) == 9
    clock.now = 19.0
    assert store.find("a") is None


def test_an_item_in_use_neither_expires_nor_makes_room() -> None:
    clock = Clock()
    store = ExpiringStore[str](ttl=10, max_bytes=5, now=clock)
    item = store.add("a", "A", 3)
    with store.use(item) as value:
        clock.now = 100.0
        store.expire()
        assert (value, keys(store)) == ("A", ["a"])
        with pytest.raises(StoreFullError):
            store.add("b", "B", 3)
    assert store.seconds_left(item) == 10, "its release was its last use"
    store.add("b", "B", 3)
    assert keys(store) == ["b"]


def test_the_longest_unused_items_make_room_for_bytes_and_for_items() -> None:
    removed = list[tuple[str, str]]()

    def on_remove(item: StoredItem[str], reason: str) -> None:
        removed.append((item.key, reason))

    store = ExpiringStore[str](max_items=3, max_bytes=10, on_remove=on_remove)
    for key in "abc":
        store.add(key, key, 3)
    store.touch(store.items()[0])
    store.add("d", "d", 1)
    assert removed == [("b", "room")]
    store.add("e", "e", 7)
    assert (keys(store), store.bytes) == (["d", "e"], 8)
    assert removed[1:] == [("c", "room"), ("a", "room")]


def test_bytes_of_a_removed_item_count_until_it_is_released() -> None:
    store = ExpiringStore[str]()
    item = store.add("a", "A", 3)
    store.resize(item, 5)
    with store.use(item), store.use(item):
        store.remove(item)
        store.resize(item, 50)
        assert (len(store), store.bytes) == (0, 5)
    assert store.bytes == 0
