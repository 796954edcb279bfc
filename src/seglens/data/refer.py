"""RefCOCO, RefCOCO+, RefCOCOg, RefCLEF, gRefCOCO and FP-RefCOCO: phrases for objects of COCO (RefCLEF: SAIAPR) images.

    ROOT/<name>/refs(<split_by>).p and instances.json, images in ROOT/images (layout of lichengunc/refer and of LISA)

The protocol of LISA and LENS: every sentence of every reference of the split is a query, stripped and lower-cased, and
an image comes with all of its queries. A reference without a sentence gives no query: gRefCOCO was published with some,
and ReLA's reader counts sentences. LISA adds up the parts of one object, so that a pixel in two of them is neither
0 nor 1; the mask here is their union.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seglens.data.faults import DataError, Note, RecordFault
from seglens.data.image_record import ImageRecord
from seglens.data.reading import read_json
from seglens.data.records import Bad, Records
from seglens.data.referring import Queries, Referring, id_of
from seglens.data.split_leakage import Part, load_keys, part, without
from seglens.data.unpickle import load as unpickle

Split = Literal["train", "val", "test", "testA", "testB", "testC"]
_COCO = ("images/mscoco/images/train2014", "images/train2014")


@dataclass(frozen=True)
class Form:
    """How the datasets of the family differ: whose split, the name of the file of references, where images are."""

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


def read(root: Path, name: str, split_by: str = "", images: Path | None = None) -> Referring:
    """The files of the dataset `name` below `root`. `split_by` is whose split (unc, umd, google, ...), `images` the
    folder of images, where either is not the usual one.

    Raises DataError on a file that is missing, cut short, not what it should be, or a pickle that is more than data."""
    form, folder = FORMS[name], root / name
    file = _find(folder, f"{form.refs}({split_by or form.split_by})", form.refs)
    refs = unpickle(file) if file.suffix == ".p" else read_json(file)
    if not isinstance(refs, list):
        raise DataError(f"{file} holds a {type(refs).__name__}; need the list of references")
    instances = folder / "instances.json"
    content = read_json(instances)
    faults, twice = list[RecordFault](), set[tuple[str, Any]]()
    index = {what: _by_id(content, what, instances, faults, twice) for what in ("image", "annotation")}
    usual = [root / one for one in form.images]
    pictures = images or next((one for one in usual if one.is_dir()), usual[0])
    return Referring(
        name,
        str(file),
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
    files = [(name, path) for name, form in FORMS.items() for path in _all_refs(root / name, form.refs)]
    if not files:
        raise DataError(f"{root} holds none of {', '.join(FORMS)} with its references; mend --root")
    for name, split_by in dict.fromkeys((name, path.stem[path.stem.index("(") + 1 : -1]) for name, path in files):
        data = read(root, name, split_by)
        for split in data.splits():
            yield part(f"{name}({split_by}) {split}", data.entries(split), trainable=split == "train")


def present(records: Iterable[ImageRecord | RecordFault | Note]) -> Iterator[ImageRecord | RecordFault | Note]:
    """The records whose image is on disk, and a fault for each other; a folder is listed once, no image is opened."""
    listed: dict[Path, frozenset[str]] = {}
    for record in records:
        if isinstance(record, ImageRecord):
            folder = record.image.parent
            if folder not in listed:
                listed[folder] = frozenset(os.listdir(folder) if folder.is_dir() else ())
            if record.image.name not in listed[folder]:
                message = f"{record.image} does not exist; put the image there"
                yield RecordFault(record.file, record.id, message, "image")
                continue
        yield record


def _find(folder: Path, stem: str, kind: str) -> Path:
    """The references as a pickle or, where there is none, as json."""
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
    """The images or annotations of instances.json by their id; those without one are added to `faults`."""
    items = content.get(f"{what}s") if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise DataError(f"{file} has no list of {what}s; need COCO's instances json")
    index: dict[Any, Mapping[str, Any]] = {}
    for number, item in enumerate(items):
        try:
            name = id_of(item, "id")
        except ValueError as error:
            faults.append(RecordFault(str(file), f"{what}s[{number}]", str(error)))
            continue
        if name in index:
            twice.add((what, name))
        index[name] = item
    return index


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
        """`exclude` is a file of images to leave out, as `seglens data overlap` writes it; `queries=first` gives each
        image one query, the first sentence of its first reference."""
        records = read(root, name, split_by, images).entries(split, queries)
        rest = without(records, load_keys(exclude)) if exclude else records
        return Records(f"{name} {split}", present(rest), trainable=split == "train", bad=bad)

    return build


BUILDERS: dict[str, Callable[..., Records]] = {name: _builder(name, form) for name, form in FORMS.items()}
