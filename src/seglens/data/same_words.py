"""When two names mean the same and are one query: a query is its words, and the same words have one mask."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from seglens.data.image_record import QueryRecord
from seglens.data.masks import NamedSource, Union

Key = TypeVar("Key", bound=Hashable)


def plain(words: str) -> str:
    """Words without what does not change their meaning: case, underscores, repeated blanks, the form of an accent."""
    return " ".join(unicodedata.normalize("NFC", words).replace("_", " ").casefold().split())


def first_of_name(names: Mapping[Key, str]) -> dict[Key, Key]:
    """For every class the first one of its name: itself, unless two classes of the table have one name."""
    first = dict[str, Key]()
    return {key: first.setdefault(plain(name), key) for key, name in names.items()}


def joined(queries: Iterable[QueryRecord]) -> tuple[tuple[QueryRecord, ...], list[str]]:
    """Queries in the same words joined to one, with the union of the masks, in place of the first; and those words. A
    query whose mask was drawn for another size stays separate: one of the two is wrong."""
    groups = dict[tuple[str, tuple[int, int] | None], list[QueryRecord]]()
    sizes = dict[str, tuple[int, int]]()
    for query in queries:
        words = plain(query.text)
        size = sizes.setdefault(words, query.size) if query.size is not None else None
        groups.setdefault((words, None if size == query.size else query.size), []).append(query)
    return tuple(map(_one, groups.values())), [group[0].text for group in groups.values() if len(group) > 1]


def _one(group: list[QueryRecord]) -> QueryRecord:
    if len(group) == 1:
        return group[0]
    size = next((one.size for one in group if one.size is not None), None)
    return replace(group[0], mask=Union([NamedSource(one.record, one.mask) for one in group]), size=size)
