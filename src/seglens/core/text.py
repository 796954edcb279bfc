"""Sentences for people."""

from __future__ import annotations

from collections.abc import Sequence


def shortened(items: Sequence[object], most: int, separator: str = "; ", rest: str = "and {} more") -> str:
    """The first `most` items, and how many more there are: "a; b; and 4 more"."""
    words = [str(item) for item in items[:most]]
    hidden = len(items) - len(words)
    return separator.join([*words, rest.format(hidden)] if hidden else words)
