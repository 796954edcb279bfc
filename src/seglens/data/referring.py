"""References of the RefCOCO family joined with the objects that they point at: the queries of each image of a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from seglens.data.faults import DataError, Note, RecordFault
from seglens.data.image_record import ImageRecord, MaskSource, QueryRecord
from seglens.data.masks import NamedSource, Nothing, Polygons, RunLengthDict, Union

Queries = Literal["all", "first"]


@dataclass(frozen=True)
class Referring:
    """The references of one dataset and the objects that they point at, indexed once for all splits. `twice` holds the
    ids ("image" or "annotation", id) that occur more than once."""

    name: str
    file: str
    instances: str
    folder: Path
    refs: list[Any]
    images: Mapping[Any, Mapping[str, Any]]
    annotations: Mapping[Any, Mapping[str, Any]]
    faults: tuple[RecordFault, ...] = ()
    twice: frozenset[tuple[str, Any]] = field(default_factory=frozenset)

    def splits(self) -> list[str]:
        return sorted({ref["split"] for ref in self.refs if isinstance(ref, dict) and type(ref.get("split")) is str})

    def entries(self, split: str, queries: Queries = "all") -> Iterator[ImageRecord | RecordFault | Note]:
        """An ImageRecord for each image of the split, in the order of the references, and what is wrong with the
        others. With queries="first" an image has one query, the first sentence of its first reference.

        Whether the images are on disk is not checked here: masks can be drawn at the record's size without them."""
        yield from self.faults
        by_image: dict[Any, list[QueryRecord]] = {}
        refs, seen = set[Any](), set[Any]()
        empty = True
        for number, ref in enumerate(self.refs):
            try:
                declared, name = _field(ref, "split", str), id_of(ref, "ref_id")
                if name in refs:
                    raise ValueError(f"ref_id {name} occurs twice")
            except ValueError as error:
                yield RecordFault(self.file, f"refs[{number}]", str(error))
                continue
            refs.add(name)
            if _belongs(declared, split):
                empty = False
                for record in self._queries(ref, seen):
                    if isinstance(record, QueryRecord):
                        by_image.setdefault(ref["image_id"], []).append(record)
                    else:
                        yield record
        if empty:
            raise DataError(
                f"{self.file} has no reference of split {split}; its splits: {', '.join(self.splits()) or 'none'}"
            )
        for image, records in by_image.items():
            yield self._entry(image, split, tuple(records[: 1 if queries == "first" else None]))

    def _entry(self, image: Any, split: str, queries: tuple[QueryRecord, ...]) -> ImageRecord | RecordFault:
        try:
            record = self.images[image]
            size = (_side(record, "height"), _side(record, "width"))
            name = PurePosixPath(_field(record, "file_name", str))
            if name.is_absolute() or ".." in name.parts or "\0" in str(name):
                raise ValueError(f"file_name {str(name)!r} leads out of the folder of images")
        except ValueError as error:
            return RecordFault(self.instances, f"image {image}", str(error))
        return ImageRecord(f"{self.name}-{split}-{image}", self.folder / name, self.file, queries, size)

    def _queries(self, ref: Mapping[str, Any], seen: set[Any]) -> Iterator[QueryRecord | RecordFault | Note]:
        name = f"ref {ref['ref_id']}"
        if ref.get("sentences") == []:
            yield Note(self.file, name, "has no sentence, so it gives no query")
            return
        try:
            image = id_of(ref, "image_id")
            if image not in self.images or ("image", image) in self.twice:
                raise ValueError(f"image {image} is {self._how_often('image', image)} in {self.instances}")
            mask, kind = self._target(ref, image)
            box = self._box(ref)
            sentences = _field(ref, "sentences", list)
            if id(sentences) in seen:  # only in a pickle, where a small file could become a large index
                raise ValueError("shares its sentences with another reference")
        except ValueError as error:
            yield RecordFault(self.file, name, str(error))
            return
        seen.add(id(sentences))
        for number, sentence in enumerate(sentences):
            try:
                sent, query, false = _sentence(sentence)
                if (sent, false) in seen:
                    raise ValueError(f"sent_id {sent} occurs twice")
            except ValueError as error:
                yield RecordFault(self.file, f"{name} sentences[{number}]", str(error))
                continue
            seen.add((sent, false))
            if false:
                yield QueryRecord(
                    query, Nothing(), f"{name} sent {sent}", "false premise", sentence.get("gt_sent") or None
                )
            else:
                yield QueryRecord(query, mask, f"{name} sent {sent}", kind, box=box)

    def _target(self, ref: Mapping[str, Any], image: Any) -> tuple[MaskSource, str]:
        """The mask of a reference; gRefCOCO lists several objects, or [-1] for none, and leaves out crowds."""
        listed = ref.get("ann_id")
        ids = list(listed) if isinstance(listed, list) else [id_of(ref, "ann_id")]
        # before anything prints them: a pickle may be nested without end
        if not all(type(one) in (int, str) for one in ids):
            raise ValueError("ann_id lists something else than ids of annotations")
        if ids == [-1]:
            return Nothing(), "no target"
        if not ids or -1 in ids:
            raise ValueError(f"ann_id is {str(ids)[:60]}; needs ids of annotations, or [-1] alone for no target")
        annotations = [self._annotation(one, image) for one in ids]
        if isinstance(listed, list):
            annotations = [one for one in annotations if not one.get("iscrowd")]
        if not annotations:
            raise ValueError("refers to crowds alone")
        sources = [NamedSource(f"annotation {one['id']}", mask_source(one)) for one in annotations]
        return sources[0] if len(sources) == 1 else Union(sources), "phrase"

    def _box(self, ref: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
        """The box of the one annotation that a reference points at, where it is in COCO's form."""
        annotation = ref.get("ann_id")
        box = None if isinstance(annotation, list) else self.annotations[annotation].get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(type(one) in (int, float) for one in box):
            return None
        x, y, width, height = map(float, box)
        return x, y, width, height

    def _annotation(self, name: Any, image: Any) -> Mapping[str, Any]:
        if name not in self.annotations or ("annotation", name) in self.twice:
            raise ValueError(f"annotation {name} is {self._how_often('annotation', name)} in {self.instances}")
        annotation = self.annotations[name]
        if annotation.get("image_id") != image:
            raise ValueError(f"annotation {name} is of image {str(annotation.get('image_id'))[:40]}, not of {image}")
        return annotation

    def _how_often(self, what: str, name: Any) -> str:
        return "twice" if (what, name) in self.twice else "not"


def mask_source(annotation: Mapping[str, Any]) -> MaskSource:
    """The segmentation of an annotation as COCO writes it: polygons, run lengths or (RefCLEF) a list of run lengths."""
    shape = annotation.get("segmentation")
    if isinstance(shape, dict):
        return RunLengthDict(shape)
    if not shape or not isinstance(shape, list):
        raise ValueError(f"annotation {annotation['id']} has no segmentation")
    if all(isinstance(part, dict) for part in shape):
        return RunLengthDict(shape[0]) if len(shape) == 1 else Union([RunLengthDict(part) for part in shape])
    return Polygons(shape)


def _field(record: Any, key: str, kind: type) -> Any:
    if not isinstance(record, dict):
        raise ValueError(f"is a {type(record).__name__}; needs an object with {key}")
    value = record.get(key)
    if type(value) is not kind:
        raise ValueError(f"{key} is {_kind_of(value)}; needs a {kind.__name__}")
    return value


def id_of(record: Any, key: str) -> int | str:
    if not isinstance(record, dict):
        raise ValueError(f"is a {type(record).__name__}; needs an object with {key}")
    value = record.get(key)
    if type(value) not in (int, str):
        raise ValueError(f"{key} is {_kind_of(value)}; needs an integer or a string")
    return value  # type: ignore[return-value]


def _side(image: Mapping[str, Any], key: str) -> int:
    side: int = _field(image, key, int)
    if side < 1:
        raise ValueError(f"{key} is {side}; needs at least 1")
    return side


def _sentence(sentence: Any) -> tuple[int | str, str, bool]:
    """Its id, its words, and whether they are false (only FP-RefCOCO marks that)."""
    name, words = id_of(sentence, "sent_id"), _field(sentence, "sent", str).strip().lower()
    if not words:
        raise ValueError("the sentence is empty")
    if "is_false_premise" in sentence:
        false: bool = _field(sentence, "is_false_premise", bool)
        if not isinstance(sentence.get("gt_sent", ""), str):
            raise ValueError(f"gt_sent is {_kind_of(sentence['gt_sent'])}; needs a str")
        return name, words, false
    return name, words, False


def _kind_of(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def _belongs(declared: str, split: str) -> bool:
    """The rule of lichengunc/refer: a reference of testAB is in testA and testB, and all of them are in test."""
    if split in ("testA", "testB", "testC"):
        return split[-1] in declared
    return "test" in declared if split == "test" else declared == split
