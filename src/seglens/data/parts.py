"""Parts of things, as VLPart prepares them for LISA: PACO-LVIS and PASCAL-Part, both in COCO's json.

Each annotation is a query with its own mask. A part is named "dog leg" or "the leg of the dog", half and half (LISA
draws anew each time; here the annotation's id and the seed decide, so that a query can be found again).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seglens.data.faults import DataError, Note, RecordFault
from seglens.data.image_record import ImageRecord, MaskSource, QueryRecord
from seglens.data.lisa_tree import need
from seglens.data.masks import Polygons, RunLengthDict
from seglens.data.reading import read_json
from seglens.data.records import Bad, Records
from seglens.data.rng import below, words

Split = Literal["train", "val"]


@dataclass(frozen=True)
class PartCategory:
    """A category: an object, or a part of it."""

    name: str
    part: str | None = None

    @classmethod
    def parse(cls, text: str) -> PartCategory:
        """ "mug:handle" or "mouse_(computer_equipment)": without the qualifier. Raises ValueError on anything else."""
        names = [name.split("_(")[0].strip().lower() for name in text.split(":")]
        if not 1 <= len(names) <= 2 or not all(names):
            raise ValueError(f"the category name {text!r} is neither 'object' nor 'object:part'")
        return cls(*names)

    @property
    def kind(self) -> str:
        return "class" if self.part is None else "part"

    def forms(self) -> tuple[str, ...]:
        """All its names in queries."""
        return (
            (self.name,) if self.part is None else (f"{self.name} {self.part}", f"the {self.part} of the {self.name}")
        )


def paco(root: Path, split: Split = "train", seed: int = 0, bad: Bad = "refuse") -> Records:
    """PACO-LVIS: objects and their parts in COCO's photographs (`coco/`)."""
    file = f"vlpart/paco/annotations/paco_lvis_v1_{split}.json"
    need("paco", root, file, "coco")
    return _records("paco", split, root / file, root / "coco", seed, bad, searched_for_all=False)


def pascal_part(root: Path, split: Split = "train", seed: int = 0, bad: Bad = "refuse") -> Records:
    """PASCAL-Part: parts of the things of PASCAL VOC 2010."""
    file, images = f"vlpart/pascal_part/{split}.json", "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages"
    need("pascal_part", root, file, images)
    return _records("pascal_part", split, root / file, root / images, seed, bad)


def _records(
    name: str, split: str, file: Path, images: Path, seed: int, bad: Bad, searched_for_all: bool = True
) -> Records:
    content = PartsFile(file, images, seed, searched_for_all)
    entries = list(content.entries())
    names = tuple(dict.fromkeys(thing.forms()[0] for thing in content.things.values()))
    return Records(f"{name} {split}", entries, trainable=split == "train", bad=bad, classes=names)


FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int, "segmentation": (list, dict)},
}


class PartsFile:
    """A json of COCO's, read: its categories as things, its images with their annotations as queries.

    Raises DataError, naming the file, when it is not of that format. An image without annotations is a note:
    it has no query. `searched_for_all`: what is not annotated in an image is not there, even where the image does not
    list what was searched for in vain (`neg_category_ids`)."""

    def __init__(self, file: Path, images: Path, seed: int, searched_for_all: bool = True):
        self.file, self.images, self.seed, self.searched_for_all = str(file), images, seed, searched_for_all
        self.held, self.unsure = defaultdict[int, set[str]](set), False
        self.content, self.things = read_json(file), dict[int, PartCategory]()
        for key in FIELDS:
            if not (isinstance(self.content, dict) and isinstance(self.content.get(key), list)):
                raise DataError(f"{self.file!r} has no list of {key}; need COCO's json format")

    def entries(self) -> Iterator[ImageRecord | RecordFault | Note]:
        yield from self._read_things()
        pictures, queries = dict[int, dict[str, Any]](), defaultdict[int, list[QueryRecord]](list)
        for one in self._each("images"):
            if isinstance(one, RecordFault):
                yield one
            else:
                pictures[one["id"]] = one
        for one in self._each("annotations"):
            if isinstance(one, RecordFault):
                self.unsure = True  # it may be of any image
                yield one
            elif isinstance(query := self._query(one, pictures), RecordFault):
                self.unsure = True
                yield query
            else:
                queries[one["image_id"]].append(query)
                self.held[one["image_id"]].add(self.things[one["category_id"]].name)
        for number, one in pictures.items():
            yield self._entry(one, tuple(queries[number]))

    def _each(self, key: str) -> Iterator[dict[str, Any] | RecordFault]:
        """The records of a list; a fault for one that lacks a field or has the id of an earlier one."""
        seen, what = set[int](), {"categories": "category"}.get(key, key[:-1])
        for at, one in enumerate(self.content[key]):
            wrong = _wrong(one, FIELDS[key])
            if wrong:
                yield RecordFault(self.file, f"{what} number {at} of its list", wrong)
            elif one["id"] in seen:
                yield RecordFault(self.file, f"{what} {one['id']}", "has the id of an earlier one", "duplicate id")
            else:
                seen.add(one["id"])
                yield one

    def _read_things(self) -> Iterator[RecordFault]:
        for one in self._each("categories"):
            if isinstance(one, RecordFault):
                yield one
                continue
            try:
                self.things[one["id"]] = PartCategory.parse(one["name"])
            except ValueError as error:
                yield RecordFault(self.file, f"category {one['id']}", str(error))

    def _query(self, one: dict[str, Any], pictures: dict[int, dict[str, Any]]) -> QueryRecord | RecordFault:
        record = f"annotation {one['id']}"
        for field, known in (("image_id", pictures), ("category_id", self.things)):
            if one[field] not in known:
                return RecordFault(self.file, record, f"has {field} {one[field]}, which is missing or bad itself")
        thing, outline = self.things[one["category_id"]], one["segmentation"]
        forms = thing.forms()
        query = forms[below(words(1, self.seed, one["id"])[0], len(forms))]
        source: MaskSource = RunLengthDict(outline) if isinstance(outline, dict) else Polygons(outline)
        return QueryRecord(query, source, record, thing.kind)

    def _entry(self, one: dict[str, Any], queries: tuple[QueryRecord, ...]) -> ImageRecord | RecordFault | Note:
        path = self.images / one["file_name"]
        if not queries:
            return Note(self.file, f"image {one['id']}", "has no annotation")
        if not path.is_file():
            return RecordFault(self.file, f"image {one['id']}", f"its file {path} is missing", "image")
        holds, absent = self._known(one)
        return ImageRecord(str(one["id"]), path, self.file, queries, (one["height"], one["width"]), holds, absent)

    def _known(self, one: dict[str, Any]) -> tuple[frozenset[str] | None, frozenset[str] | None]:
        """What an image may show (things with all their parts, annotated or not), and what was searched for in vain."""
        negative = one.get("neg_category_ids")
        if self.unsure or not (self.searched_for_all or isinstance(negative, list)):
            return None, None
        partly = {self.things[n].name for n in one.get("not_exhaustive_category_ids") or () if n in self.things}
        held = self._named(self.held[one["id"]] | partly)
        lacks = {self.things[n].name for n in negative if n in self.things} if isinstance(negative, list) else None
        return held, None if lacks is None else self._named(lacks)

    def _named(self, things: set[str]) -> frozenset[str]:
        """Things and all their parts, by the names in queries."""
        return frozenset(things) | {thing.forms()[0] for thing in self.things.values() if thing.name in things}


def _wrong(one: Any, fields: dict[str, type | tuple[type, ...]]) -> str | None:
    if not isinstance(one, dict):
        return f"is {str(one)[:40]!r}, not a record"
    absent = [name for name in fields if name not in one]
    if absent:
        return f"has no {', '.join(absent)}"
    odd = [name for name, kind in fields.items() if not isinstance(one[name], kind)]
    return f"has {odd[0]}={str(one[odd[0]])[:40]!r}, which is of the wrong type" if odd else None
