"""RefCOCO, RefCOCO+, RefCOCOg, RefCLEF, gRefCOCO and FP-RefCOCO: phrases for objects of COCO (RefCLEF: SAIAPR) images.

    ROOT/<name>/refs(<split_by>).p and instances.json, images in ROOT/images (layout of lichengunc/refer and of LISA)

The protocol of LISA and LENS: every sentence of every reference of the split is a query, stripped and lower-cased, and
an image comes with all of its queries. A reference without a sentence asks nothing: gRefCOCO was published with some,
and ReLA's reader goes by sentences. LISA adds up the parts of one object, so that a pixel in two of them is neither
0 nor 1; the mask here is their union.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from seglens.data.masks import NamedSource, Nothing, Polygons, RunLengthDict, Union
from seglens.data.reading import read_json
from seglens.data.records import Ask, Bad, DataError, ImageRecord, MaskSource, Note, RecordFault, Records
from seglens.data.split_leakage import Part, load_keys, part, without
from seglens.data.unpickle import load as unpickle

Split = Literal["train", "val", "test", "testA", "testB", "testC"]
Queries = Literal["all", "first"]
_COCO = ("images/mscoco/images/train2014", "images/train2014")


@dataclass(frozen=True)
class Form:
    """What differs between the datasets of the family: whose split, the name of the references, where images are."""

    split_by: str = "unc"
    refs: str = "refs"
    images: tuple[str, ...] = _COCO


FORMS: dict[str, Form] = {
    "refcoco": Form(),
    "refcoco+": Form(),
    "refcocog": Form("umd"),
    "refclef": Form(images=("images/saiapr_tc-12",)),
    "grefcoco": Form(refs="grefs"),
    "fprefcoco": Form("berkeley"),
    "fprefcoco+": Form("berkeley"),
    "fprefcocog": Form("berkeley"),
}


@dataclass(frozen=True)
class Referring:
    """One dataset's references and the objects that they point at, indexed once for all splits."""

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
        """An Entry for each image of the split, in the order of the references, and what is wrong with the others.
        With the first of `queries`, an image asks the first sentence of its first reference alone.

        Whether the images are on disk is not asked: masks draw at the entry's size without them."""
        yield from self.faults
        asks: dict[Any, list[Ask]] = {}
        refs, sentences = set[Any](), set[Any]()
        empty = True
        for number, ref in enumerate(self.refs):
            try:
                where, name = _field(ref, "split", str), _id(ref, "ref_id")
                if name in refs:
                    raise ValueError(f"ref_id {name} occurs twice")
            except ValueError as error:
                yield RecordFault(self.file, f"refs[{number}]", str(error))
                continue
            refs.add(name)
            if _belongs(where, split):
                empty = False
                for one in self._queries(ref, sentences):
                    if isinstance(one, Ask):
                        asks.setdefault(ref["image_id"], []).append(one)
                    else:
                        yield one
        if empty:
            raise DataError(
                f"{self.file} has no reference of split {split}; its splits: {', '.join(self.splits()) or 'none'}"
            )
        for image, of_it in asks.items():
            yield self._entry(image, split, tuple(of_it[: 1 if queries == "first" else None]))

    def _entry(self, image: Any, split: str, asks: tuple[Ask, ...]) -> ImageRecord | RecordFault:
        try:
            found = self.images[image]
            size = (_side(found, "height"), _side(found, "width"))
            name = PurePosixPath(_field(found, "file_name", str))
            if name.is_absolute() or ".." in name.parts or "\0" in str(name):
                raise ValueError(f"file_name {str(name)!r} leads out of the folder of images")
        except ValueError as error:
            return RecordFault(self.instances, f"image {image}", str(error))
        return ImageRecord(f"{self.name}-{split}-{image}", self.folder / name, self.file, asks, size)

    def _queries(self, ref: Mapping[str, Any], seen: set[Any]) -> Iterator[Ask | RecordFault | Note]:
        name = f"ref {ref['ref_id']}"
        if ref.get("sentences") == []:
            yield Note(self.file, name, "has no sentence, so it asks nothing")
            return
        try:
            image = _id(ref, "image_id")
            if image not in self.images or ("image", image) in self.twice:
                raise ValueError(f"image {image} is {self._how_often('image', image)} in {self.instances}")
            mask, kind = self._target(ref, image)
            box = self._box(ref)
            sentences = _field(ref, "sentences", list)
            if id(sentences) in seen:  # only in a pickle, and there a way to make much of little
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
                yield Ask(query, Nothing(), f"{name} sent {sent}", "false premise", sentence.get("gt_sent") or None)
            else:
                yield Ask(query, mask, f"{name} sent {sent}", kind, box=box)

    def _target(self, ref: Mapping[str, Any], image: Any) -> tuple[MaskSource, str]:
        """The mask of a reference; gRefCOCO lists several objects, or [-1] for none, and leaves out crowds."""
        many = ref.get("ann_id")
        ids = list(many) if isinstance(many, list) else [_id(ref, "ann_id")]
        if not all(
            type(one) in (int, str) for one in ids
        ):  # before anything prints them: a pickle may nest without end
            raise ValueError("ann_id lists something else than ids of annotations")
        if ids == [-1]:
            return Nothing(), "no target"
        if not ids or -1 in ids:
            raise ValueError(f"ann_id is {str(ids)[:60]}; needs ids of annotations, or [-1] alone for no target")
        found = [self._annotation(one, image) for one in ids]
        if isinstance(many, list):
            found = [one for one in found if not one.get("iscrowd")]
        if not found:
            raise ValueError("refers to crowds alone")
        sources = [NamedSource(f"annotation {one['id']}", mask_source(one)) for one in found]
        return sources[0] if len(sources) == 1 else Union(sources), "phrase"

    def _box(self, ref: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
        """The box of the one annotation that a reference points at, where it is written as COCO does."""
        many = ref.get("ann_id")
        said = None if isinstance(many, list) else self.annotations[many].get("bbox")
        if not isinstance(said, list) or len(said) != 4 or not all(type(one) in (int, float) for one in said):
            return None
        x, y, width, height = map(float, said)
        return x, y, width, height

    def _annotation(self, name: Any, image: Any) -> Mapping[str, Any]:
        if name not in self.annotations or ("annotation", name) in self.twice:
            raise ValueError(f"annotation {name} is {self._how_often('annotation', name)} in {self.instances}")
        found = self.annotations[name]
        if found.get("image_id") != image:
            raise ValueError(f"annotation {name} is of image {str(found.get('image_id'))[:40]}, not of {image}")
        return found

    def _how_often(self, what: str, name: Any) -> str:
        return "twice" if (what, name) in self.twice else "not"


def read(root: Path, name: str, split_by: str = "", images: Path | None = None) -> Referring:
    """The files of the dataset `name` below `root`. `split_by` is whose split (unc, umd, google, ...), `images` the
    folder of images, where either is not the usual one.

    Raises DataError on a file that is missing, cut short, not what it should be, or a pickle that is more than data."""
    form, folder = FORMS[name], root / name
    found = _find(folder, f"{form.refs}({split_by or form.split_by})", form.refs)
    refs = unpickle(found) if found.suffix == ".p" else read_json(found)
    if not isinstance(refs, list):
        raise DataError(f"{found} holds a {type(refs).__name__}; need the list of references")
    instances = folder / "instances.json"
    content = read_json(instances)
    faults, twice = list[RecordFault](), set[tuple[str, Any]]()
    index = {what: _by_id(content, what, instances, faults, twice) for what in ("image", "annotation")}
    usual = [root / one for one in form.images]
    pictures = images or next((one for one in usual if one.is_dir()), usual[0])
    return Referring(
        name,
        str(found),
        str(instances),
        pictures,
        refs,
        index["image"],
        index["annotation"],
        tuple(faults),
        frozenset(twice),
    )


def parts(root: Path) -> Iterator[Part]:
    """The images of every split of every dataset of the family below `root`. Raises DataError when there is none."""
    found = [(name, path) for name, form in FORMS.items() for path in _all_refs(root / name, form.refs)]
    if not found:
        raise DataError(f"{root} holds none of {', '.join(FORMS)} with its references; mend --root")
    for name, split_by in dict.fromkeys((name, path.stem[path.stem.index("(") + 1 : -1]) for name, path in found):
        data = read(root, name, split_by)
        for split in data.splits():
            yield part(f"{name}({split_by}) {split}", data.entries(split), trainable=split == "train")


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


def present(found: Iterable[ImageRecord | RecordFault | Note]) -> Iterator[ImageRecord | RecordFault | Note]:
    """The entries whose image is on disk, and a Fault for each other; a folder is listed once, no image is opened."""
    listed: dict[Path, frozenset[str]] = {}
    for one in found:
        if isinstance(one, ImageRecord):
            folder = one.image.parent
            if folder not in listed:
                listed[folder] = frozenset(os.listdir(folder) if folder.is_dir() else ())
            if one.image.name not in listed[folder]:
                yield RecordFault(one.file, one.id, f"{one.image} does not exist; put the image there", "image")
                continue
        yield one


def _find(folder: Path, stem: str, kind: str) -> Path:
    """The references as a pickle or, failing that, as json."""
    for ending in (".p", ".json"):
        if (folder / f"{stem}{ending}").is_file():
            return folder / f"{stem}{ending}"
    near = [path.name for path in _all_refs(folder, kind)]
    raise DataError(
        f"{folder} holds no {stem}.p or .json; "
        + (f"it has {', '.join(near)}: choose with split_by=" if near else "unpack the dataset there, or mend root=")
    )


def _all_refs(folder: Path, kind: str) -> list[Path]:
    return sorted(path for ending in ("p", "json") for path in folder.glob(f"{kind}(*).{ending}"))


def _by_id(
    content: Any, what: str, file: Path, faults: list[RecordFault], twice: set[tuple[str, Any]]
) -> dict[Any, Mapping[str, Any]]:
    """The images or annotations of instances.json by their id; what has none goes to `faults`."""
    items = content.get(f"{what}s") if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise DataError(f"{file} has no list of {what}s; need COCO's instances json")
    index: dict[Any, Mapping[str, Any]] = {}
    for number, item in enumerate(items):
        try:
            name = _id(item, "id")
        except ValueError as error:
            faults.append(RecordFault(str(file), f"{what}s[{number}]", str(error)))
            continue
        if name in index:
            twice.add((what, name))
        index[name] = item
    return index


def _field(record: Any, key: str, kind: type) -> Any:
    if not isinstance(record, dict):
        raise ValueError(f"is a {type(record).__name__}; needs an object with {key}")
    value = record.get(key)
    if type(value) is not kind:
        raise ValueError(f"{key} is {_kind_of(value)}; needs a {kind.__name__}")
    return value


def _id(record: Any, key: str) -> int | str:
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
    """Its id, its words, and whether they are false (only FP-RefCOCO says so)."""
    name, words = _id(sentence, "sent_id"), _field(sentence, "sent", str).strip().lower()
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


def _belongs(where: str, split: str) -> bool:
    """The rule of lichengunc/refer: a reference of testAB is in testA and testB, and all of them are in test."""
    if split in ("testA", "testB", "testC"):
        return split[-1] in where
    return "test" in where if split == "test" else where == split


def _builder(name: str, usual: Form) -> Callable[..., Records]:
    def build(
        root: Path,
        split: Split = "val",
        split_by: str = usual.split_by,
        images: Path | None = None,
        exclude: Path | None = None,
        queries: Queries = "all",
        bad: Bad = "refuse",
    ) -> Records:
        """`exclude` is a file of images to leave out, as `seglens data overlap` writes it; `queries=first` asks the
        first sentence of each image's first reference."""
        found = read(root, name, split_by, images).entries(split, queries)
        kept = without(found, load_keys(exclude)) if exclude else found
        return Records(f"{name} {split}", present(kept), trainable=split == "train", bad=bad)

    return build


BUILDERS: dict[str, Callable[..., Records]] = {name: _builder(name, form) for name, form in FORMS.items()}
