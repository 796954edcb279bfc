"""What a COCO json says of the categories that an image does not show: those without an annotation there, unless a
record is bad, the file says which were looked for (LVIS), or one category is a kind of another."""

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
        self.unsure: set[Id] = set()  # images with a record of which nobody knows the category
        self.nothing_known = False
        self.negative: dict[Id, frozenset[Id]] = {}
        self.partly: dict[Id, set[Id]] = {}

    def read(self, categories: Sequence[Any]) -> None:
        for record in categories:
            kind = record.get("supercategory") if isinstance(record, dict) else None
            key = record.get("id") if isinstance(record, dict) else None
            if isinstance(kind, str) and isinstance(key, int | str) and key in self.categories:
                self.kinds[self.categories[key]] = kind

    def looked(self, image: Id, record: Mapping[str, Any]) -> None:
        """LVIS names the categories of an image that were looked for in vain, and those that were not all annotated."""
        if isinstance(record.get("neg_category_ids"), list):
            self.negative[image] = frozenset(one for one in record["neg_category_ids"] if isinstance(one, int | str))
        if isinstance(record.get("not_exhaustive_category_ids"), list):
            self.partly[image] = {one for one in record["not_exhaustive_category_ids"] if isinstance(one, int | str)}

    def met(self, image: Id, category: Id) -> None:
        self.held.setdefault(image, set()).add(category)

    def lost(self, record: Any) -> None:
        """An annotation whose image or category cannot be told."""
        image, category = (record.get(key) if isinstance(record, dict) else None for key in ("image_id", "category_id"))
        if isinstance(category, int | str) and category in self.categories:
            self.anywhere.add(category)
        elif isinstance(image, int | str):
            self.unsure.add(image)
        else:
            self.nothing_known = True

    def shown(self) -> tuple[str, ...]:
        """The names that are annotated in any image: nobody may have looked for the others."""
        met = {self.same[one] for found in self.held.values() for one in found if one in self.same}
        return tuple(name for key, name in self.categories.items() if key in met)

    def of(self, image: Id) -> tuple[frozenset[str] | None, frozenset[str] | None]:
        """What an image may show beside what is asked for (None: anything), and what it surely does not show where the
        file says who was looked for."""
        if self.nothing_known or image in self.unsure:
            return None, None
        ids = self.held.get(image, set()) | self.anywhere | self.partly.get(image, set())
        names = {self.categories[one] for one in ids if one in self.categories}
        above = {self.kinds[name] for name in names if name in self.kinds}
        below = {name for name, kind in self.kinds.items() if kind in names}
        told = self.negative.get(image)
        absent = None if told is None else frozenset(self.categories[one] for one in told if one in self.categories)
        return frozenset(names | above | below), absent
