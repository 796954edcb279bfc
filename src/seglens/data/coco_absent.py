"""The categories that an image of a COCO json does not show: those without an annotation there, unless a record is bad,
the file lists which were searched for (LVIS), or one category is a kind of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Id = int | str


class Certain:
    """Filled while the tables are read; `categories` are the names by id, `same` the first id of each name."""

    def __init__(self, categories: Mapping[Id, str], same: Mapping[Id, Id]):
        self.categories, self.same = categories, same
        self.kinds: dict[str, str] = {}  # a name to its supercategory
        self.held: dict[Id, set[Id]] = {}
        self.anywhere: set[Id] = set()  # of records that may belong to any image
        self.unsure: set[Id] = set()  # images with a record of unknown category
        self.nothing_known = False
        self.negative: dict[Id, frozenset[Id]] = {}
        self.partly: dict[Id, set[Id]] = {}

    def read(self, categories: Sequence[Any]) -> None:
        for record in categories:
            kind = record.get("supercategory") if isinstance(record, dict) else None
            key = record.get("id") if isinstance(record, dict) else None
            if isinstance(kind, str) and isinstance(key, int | str) and key in self.categories:
                self.kinds[self.categories[key]] = kind

    def searched(self, image: Id, record: Mapping[str, Any]) -> None:
        """LVIS lists the categories of an image that were searched for in vain, and those not annotated everywhere."""
        if isinstance(record.get("neg_category_ids"), list):
            self.negative[image] = frozenset(one for one in record["neg_category_ids"] if isinstance(one, int | str))
        if isinstance(record.get("not_exhaustive_category_ids"), list):
            self.partly[image] = {one for one in record["not_exhaustive_category_ids"] if isinstance(one, int | str)}

    def annotated(self, image: Id, category: Id) -> None:
        self.held.setdefault(image, set()).add(category)

    def unplaced(self, record: Any) -> None:
        """An annotation whose image or category is unknown."""
        image, category = (record.get(key) if isinstance(record, dict) else None for key in ("image_id", "category_id"))
        if isinstance(category, int | str) and category in self.categories:
            self.anywhere.add(category)
        elif isinstance(image, int | str):
            self.unsure.add(image)
        else:
            self.nothing_known = True

    def names_in_use(self) -> tuple[str, ...]:
        """The names that are annotated in any image: the others may not have been searched for at all."""
        in_use = {self.same[one] for held in self.held.values() for one in held if one in self.same}
        return tuple(name for key, name in self.categories.items() if key in in_use)

    def of(self, image: Id) -> tuple[frozenset[str] | None, frozenset[str] | None]:
        """What an image may show without a query for it (None: anything), and what it surely does not show where the
        file lists what was searched for."""
        if self.nothing_known or image in self.unsure:
            return None, None
        ids = self.held.get(image, set()) | self.anywhere | self.partly.get(image, set())
        names = {self.categories[one] for one in ids if one in self.categories}
        above = {self.kinds[name] for name in names if name in self.kinds}
        below = {name for name, kind in self.kinds.items() if kind in names}
        negative = self.negative.get(image)
        absent = (
            None if negative is None else frozenset(self.categories[one] for one in negative if one in self.categories)
        )
        return frozenset(names | above | below), absent
