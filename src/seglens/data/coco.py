"""COCO instances: one json of images, categories and annotations (Lin et al., arXiv 1405.0312)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seglens.data.coco_absent import Certain
from seglens.data.coco_fields import (
    Id,
    file_name,
    id_of,
    is_crowd,
    mask_of,
    middle_of_box,
    name_of,
    own_id,
    read_tables,
)
from seglens.data.faults import Note, RecordFault
from seglens.data.image_record import DecodedMask, ImageRecord, MaskSource, QueryRecord
from seglens.data.json_records import size_of
from seglens.data.masks import NamedSource, draw_each
from seglens.data.reading import Split, located, need_folder
from seglens.data.records import Bad, Records, UnusableQueries
from seglens.data.same_words import first_of_name


def coco_data(
    images: Path,
    annotations: Path,
    each: Literal["category", "instance"] = "category",
    crowd: Literal["ignore", "include"] = "ignore",
    split: Split = "train",
    bad: Bad = "refuse",
) -> Records:
    """The images of `annotations`, under the folder `images`, asked for by the names of their categories.

    `each=category`: one query per category of an image, the union of its instances. Categories of one name are one
    category, with a note: the same words have one mask. `each=instance`: one query per instance; several of one
    category are distinguished by their order, by the middle of their boxes, as in "cat, 2nd from the left".

    A crowd (`iscrowd`) is a rough outline around many objects with the gaps between them, so that by default its pixels
    count neither for nor against its category; `crowd=include` counts them as the object. A category that has nothing
    but a crowd is left out then, and so is one with a crowd from `each=instance`, since the objects in a crowd cannot
    be numbered: `notes` name both. `split` is the purpose of the data: only `train` may train.

    Raises DataError on a file or folder that cannot be read, and where Records does."""
    need_folder(images, "images= names the folder that file_name counts from")
    tables = read_tables(annotations)
    index = _Index(annotations, images, tables)
    records = index.records(each == "instance", crowd == "include")
    return Records(
        f"coco {annotations}",
        records,
        trainable=split == "train",
        bad=bad,
        vocabulary=lambda: index.certain.names_in_use(),
    )


@dataclass(frozen=True)
class Instances:
    """The union of annotations, and the crowds that are ignored beside them. A mistake names its annotation."""

    parts: tuple[NamedSource, ...]
    crowds: tuple[NamedSource, ...] = ()

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        drawn = [one.mask for one in draw_each((*self.parts, *self.crowds), size)]
        mask = np.logical_or.reduce(drawn[: len(self.parts)])
        crowds = drawn[len(self.parts) :]
        return DecodedMask(mask, np.logical_or.reduce(crowds) & ~mask if crowds else None)


@dataclass(frozen=True)
class _Annotation:
    name: str
    id: str | None
    source: MaskSource
    crowd: bool
    middle: float | None  # of the box, in pixels from the left; None without a box


class _Index:
    """The three tables of the file joined, in the order of its images."""

    def __init__(self, file: Path, folder: Path, tables: Mapping[str, list[Any]]):
        self.file, self.folder, self.tables = str(file), folder, tables
        self.categories: dict[Id, str] = {}
        self.same: dict[Id, Id] = {}  # a category to the first one of its name
        self.groups: dict[Id, dict[Id, list[_Annotation]]] = {}
        # These give no query because one record of them is bad: a union without it, or a count, would be wrong.
        self.bad_groups: set[tuple[Id, Id]] = set()
        self.bad_images: set[Id] = set()
        self.bad_categories: set[Id] = set()
        self.certain = Certain(self.categories, self.same)

    def records(
        self, instances: bool, crowds_count: bool
    ) -> Iterator[ImageRecord | UnusableQueries | RecordFault | Note]:
        yield from self._read_categories()
        images: dict[Id, dict[str, Any]] = {}
        yield from self._read_images(images)
        yield from self._read_annotations()
        for key, image in images.items():
            yield from self._entry(key, image, instances, crowds_count)

    def _fault(self, record: str, message: str, kind: str = "annotation") -> RecordFault:
        return RecordFault(self.file, record, message, kind)

    def _read_categories(self) -> Iterator[RecordFault | Note]:
        for row, record in enumerate(self.tables["categories"]):
            try:
                key, name = id_of(record, "id"), record.get("name")
            except ValueError as error:
                yield self._fault(f"categories[{row}]", str(error))
                continue
            if not isinstance(name, str) or not name.strip():
                yield self._fault(f"category {key}", f"has the name {name!r}; it needs words for a query")
            elif self.categories.setdefault(key, name.strip()) != name.strip():
                self.bad_categories.add(key)
                yield self._fault(f"category {key}", f"is both {self.categories[key]!r} and {name!r}", "duplicate id")
        self.same.update(first_of_name(self.categories))
        self.certain.read(self.tables["categories"])
        for key, first in self.same.items():
            if key != first:
                message = f"has the name of category {first}, {self.categories[first]!r}; the two are one category"
                yield Note(self.file, f"category {key}", message)

    def _read_images(self, images: dict[Id, dict[str, Any]]) -> Iterator[RecordFault]:
        files = dict[Path, Id]()
        for row, record in enumerate(self.tables["images"]):
            try:
                key = id_of(record, "id")
                path = located(self.folder, file_name(record))
                image = {"path": path, "size": size_of(record)}
                self.certain.searched(key, record)
            except ValueError as error:
                yield self._fault(name_of(record, "image", f"images[{row}]"), str(error))
                continue
            if images.setdefault(key, image) is not image:
                self.bad_images.add(key)
                yield self._fault(f"image {key}", "is the id of more than one image", "duplicate id")
            elif (first := files.setdefault(path, key)) != key:  # neither has all annotations of the picture
                self.bad_images.add(key)
                self.certain.unsure.add(first)
                yield self._fault(f"image {key}", f"is the file of image {first}; keep one of them", "duplicate image")
            self.groups.setdefault(key, {})

    def _read_annotations(self) -> Iterator[RecordFault]:
        seen: set[str] = set()
        for row, record in enumerate(self.tables["annotations"]):
            name = name_of(record, "annotation", f"annotations[{row}]")
            try:
                image, category = id_of(record, "image_id"), id_of(record, "category_id")
                if image not in self.groups:
                    raise ValueError(f"belongs to image {image!r}, which the file does not list")
                if category not in self.categories:
                    raise ValueError(f"is of category {category!r}, which the file does not name")
            except ValueError as error:
                self.certain.unplaced(record)
                yield self._fault(name, str(error))
                continue
            self.certain.annotated(image, category)
            if category in self.bad_categories:  # it may be of the others of that name, or not
                self.bad_groups.add((image, self.same[category]))
                self.certain.unsure.add(image)
            category = self.same[category]
            if name in seen:
                self.bad_groups.add((image, category))
                yield self._fault(name, "is the id of more than one annotation", "duplicate id")
            seen.add(name)
            try:
                one = _Annotation(name, own_id(record), mask_of(record), is_crowd(record), middle_of_box(record))
            except ValueError as error:
                self.bad_groups.add((image, category))
                yield self._fault(name, str(error))
            else:
                self.groups[image].setdefault(category, []).append(one)

    def _entry(
        self, key: Id, image: dict[str, Any], instances: bool, crowds_count: bool
    ) -> Iterator[ImageRecord | UnusableQueries | RecordFault | Note]:
        name = f"image {key}"
        missing = not image["path"].is_file()
        if missing:
            yield self._fault(name, f"there is no file {str(image['path'])!r}", "image")
        if missing or key in self.bad_images:
            named = ((f"{name}, {self.categories[category]}", group) for category, group in self.groups[key].items())
            rest = tuple(query for whole, group in named for query in _all(group, "", whole, True))
            yield UnusableQueries(ImageRecord(str(key), image["path"], self.file, rest, image["size"]))
            return
        queries, unusable = list[QueryRecord](), list[QueryRecord]()
        if not self.groups[key]:
            yield Note(self.file, name, "has no annotation")
        elif image["size"] is None:
            message = "has no height and width, so that its masks may have been made at another size than the file's"
            yield Note(self.file, name, message)
        for category, group in self.groups[key].items():
            words, whole = self.categories[category], f"{name}, {self.categories[category]}"
            if (key, category) in self.bad_groups:
                unusable += _all(group, words, whole, True)
                continue
            try:
                added = _each(group, words) if instances else _all(group, words, whole, crowds_count)
            except ValueError as error:
                yield self._fault(whole, str(error))
                unusable += _all(group, words, whole, True)
            else:
                queries += added
                if not added:
                    message = "has a crowd that is too vague for a query; left out"
                    yield Note(self.file, whole, message if instances else f"{message}, and used with crowd=include")
        if queries:
            holds, absent = self.certain.of(key)
            yield ImageRecord(str(key), image["path"], self.file, tuple(queries), image["size"], holds, absent)
        if unusable:
            yield UnusableQueries(ImageRecord(str(key), image["path"], self.file, tuple(unusable), image["size"]))


def _all(group: list[_Annotation], words: str, record: str, crowds_count: bool) -> list[QueryRecord]:
    """One query for the whole group; none when only a crowd is left of it."""
    parts = tuple(NamedSource(one.name, one.source) for one in group if crowds_count or not one.crowd)
    crowds = tuple(NamedSource(one.name, one.source) for one in group if one.crowd and not crowds_count)
    return [QueryRecord(words, Instances(parts, crowds), record, "class", id=words)] if parts else []


def _each(group: list[_Annotation], words: str) -> list[QueryRecord]:
    """One query per instance; none beside a crowd, where counting from the left is not possible."""
    if any(one.crowd for one in group):
        return []
    if len(group) == 1:
        return [QueryRecord(words, group[0].source, group[0].name, "class", id=group[0].id)]
    boxless = [one.name for one in group if one.middle is None]
    if boxless:
        raise ValueError(f"{boxless[0]} has no bbox, which gives its order from the left; add [x, y, width, height]")
    ordered = sorted(group, key=lambda one: one.middle or 0.0)
    return [
        QueryRecord(f"{words}, {_ordinal(number)} from the left", one.source, one.name, "phrase", id=one.id)
        for number, one in enumerate(ordered, 1)
    ]


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
