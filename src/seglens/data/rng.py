"""Random numbers as a pure function of a key: no state to save, the same on every machine, process and worker."""

from __future__ import annotations

import hashlib

_BITS = 64


def words(count: int, *key: int | str) -> list[int]:
    """`count` numbers, each uniform over 64 bits, that depend on the key alone (SHAKE-128 of it)."""
    raw = hashlib.shake_128("\0".join(map(str, key)).encode("utf-8", "surrogatepass")).digest(count * _BITS // 8)
    return [int.from_bytes(raw[at : at + _BITS // 8], "little") for at in range(0, len(raw), _BITS // 8)]


def below(word: int, limit: int) -> int:
    """A 64-bit word as a whole number in 0 .. limit - 1, all equally likely to within 2**-64 * limit."""
    return word * limit >> _BITS


def pick(word_list: list[int], count: int) -> tuple[int, ...]:
    """Different numbers of 0 .. count - 1, one per word (at most `count`), by Fisher and Yates."""
    moved: dict[int, int] = {}
    for at, word in enumerate(word_list):
        other = at + below(word, count - at)
        moved[at], moved[other] = moved.get(other, other), moved.get(at, at)
    return tuple(moved[at] for at in range(len(word_list)))
