"""Label maps: ADE20K, COCO-Stuff and Mapillary Vistas in the folders of LISA. One query per class present.

Ignored pixels count neither for nor against a class. COCO-Stuff's names with "-" (wall-brick, floor-other) are ignored
as in LISA; in Mapillary also "unlabeled", which LISA uses as a query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Integer

from seglens.data.faults import DataError, RecordFault
from seglens.data.image_record import DecodedMask, ImageRecord, QueryRecord
from seglens.data.images import load_labels
from seglens.data.lisa_tree import need
from seglens.data.reading import read_json, read_text
from seglens.data.records import Bad, Records

Split = Literal["train", "val"]
LISTS = Path(__file__).parent / "class_names"
IGNORED = 255
Load = Callable[[Path], Integer[np.ndarray, "h w"]]


@dataclass(frozen=True)
class Classes:
    """What the values of a label map mean. Values in neither are unknown. `vague` are the names of ignored values that
    have one, and `other` the values of pixels of no class."""

    names: Mapping[int, str]
    ignored: frozenset[int]
    vague: Mapping[int, str] = field(default_factory=dict)
    other: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls, names: Mapping[int, str], ignored: set[int], file: Path, other: frozenset[int] = frozenset()
    ) -> Classes:
        """Raises DataError, naming `file`, when two values have one name: it would be unclear which one is meant."""
        used = {value: name.lower() for value, name in names.items() if value not in ignored}
        twice = sorted({name for name in used.values() if list(used.values()).count(name) > 1})
        if twice:
            raise DataError(
                f"{str(file)!r} names {', '.join(map(repr, twice))} twice; each class needs a different name"
            )
        vague = {value: names[value] for value in ignored if value in names and names[value].lower() != "unlabeled"}
        return cls(used, frozenset(ignored), vague, other)

    def hidden(self, ignored: Iterable[int]) -> frozenset[str] | None:
        """The classes that pixels of ignored values may show; None where they may show any."""
        unknown = [value for value in ignored if value not in self.other]
        return frozenset(self.vague[value] for value in unknown) if set(unknown) <= self.vague.keys() else None


@dataclass(frozen=True, eq=False)
class Label:
    """The pixels of one value in a decoded label map, which all classes of an image share."""

    pixels: Integer[np.ndarray, "h w"]
    value: int
    ignore: Bool[np.ndarray, "h w"] | None
    hidden: frozenset[str] | None = frozenset()  # what the ignored pixels may show; None: anything

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        return DecodedMask(self.pixels == self.value, self.ignore)  # at the size of the map; the caller compares


def label_queries(path: Path, classes: Classes, load: Load | None = None) -> tuple[QueryRecord, ...]:
    """A query for every class in a label map (an image, unless `load` reads something else), decoded once. Raises
    ValueError on a value that no class has."""
    pixels = (load or load_labels)(path)
    present = _values(pixels)
    unknown = [value for value in present if value not in classes.names and value not in classes.ignored]
    if unknown:
        raise ValueError(
            f"{path.name} holds the label {', '.join(map(str, unknown))}, which the class list does not have "
            f"(it has {min(classes.names)} to {max(classes.names)}); is it of another version?"
        )
    blind = [value for value in present if value in classes.ignored]
    ignore = np.isin(pixels, blind) if blind else None
    known = [value for value in present if value in classes.names]
    hidden = classes.hidden(blind)
    named = ((classes.names[value], Label(pixels, value, ignore, hidden)) for value in known)
    return tuple(QueryRecord(name, mask, path.stem, "class", id=name) for name, mask in named)


def _values(pixels: Integer[np.ndarray, "h w"]) -> list[int]:
    """Those that occur, in order; counted where they are few, which takes half the time of sorting them."""
    few = pixels.dtype in (np.uint8, np.uint16)
    return (np.flatnonzero(np.bincount(pixels.ravel())) if few else np.unique(pixels)).tolist()


def holds(queries: tuple[QueryRecord, ...]) -> frozenset[str] | None:
    return queries[0].mask.hidden if queries and isinstance(queries[0].mask, Label) else frozenset()


def _later(path: Path, classes: Classes) -> Callable[[], tuple[QueryRecord, ...]]:
    return lambda: label_queries(path, classes)


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """By their names without the suffix, in capitals or not (.JPG)."""
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() == suffix}


def _pairs(
    images: Path, labels: Path, classes: Classes, every_image: bool = True
) -> Iterator[ImageRecord | RecordFault]:
    """Photographs (.jpg) with the label maps (.png) of the same name, in the order of names.

    `every_image` is false where the folder of photographs serves other datasets too."""
    pictures, maps = _files(images, ".jpg"), _files(labels, ".png")
    for stem in sorted({*pictures, *maps} if every_image else maps):
        image, file = pictures.get(stem, images / f"{stem}.jpg"), maps.get(stem, labels / f"{stem}.png")
        if stem not in pictures:
            yield RecordFault(str(file), stem, f"its image {image} is missing", "image")
        elif stem not in maps:
            yield RecordFault(str(image), stem, f"its label map {file} is missing")
        else:
            yield ImageRecord(stem, image, str(file), _later(file, classes), holds=holds)


def _records(
    name: str, split: str, bad: Bad, classes: Classes, records: Iterator[ImageRecord | RecordFault]
) -> Records:
    known = tuple(classes.names.values())
    return Records(f"{name} {split}", records, trainable=split == "train", bad=bad, classes=known)


def ade20k(root: Path, split: Split = "train", bad: Bad = "refuse") -> Records:
    """ADE20K's scene parsing benchmark: 150 classes, values 1 to 150; 0 and 255 are ignored.

    Names: `objectInfo150.txt` where the folder has it (first synonym), else LISA's list."""
    part = {"train": "training", "val": "validation"}[split]
    images, labels = f"ade20k/images/{part}", f"ade20k/annotations/{part}"
    need("ade20k", root, images, labels)
    own = root / "ade20k" / "objectInfo150.txt"
    file = own if own.exists() else LISTS / "ade20k.txt"
    names = _synonyms(own) if own.exists() else dict(enumerate(lines(file), 1))
    classes = Classes.of(names, {0, IGNORED}, file, other=frozenset((0,)))
    return _records("ade20k", split, bad, classes, _pairs(root / images, root / labels, classes))


def lines(file: Path) -> list[str]:
    return [line.rstrip() for line in read_text(file).splitlines() if line.strip()]


def _synonyms(file: Path) -> dict[int, str]:
    """ADE20K's table: a heading, then lines with the number first and the synonyms last, separated by tabs."""
    rows = [line.split("\t") for line in lines(file)[1:]]
    try:
        return {int(row[0]): re.split("[,;]", row[-1])[0].strip() for row in rows}
    except ValueError as error:
        raise DataError(f"{str(file)!r} is not ADE20K's table of classes ({error}); download it again") from None


def cocostuff(root: Path, split: Split = "train", bad: Bad = "refuse") -> Records:
    """COCO-Stuff's stuffthingmaps with COCO's photographs: a class of the list's line n has the value n - 1.

    Names: `cocostuff/labels.txt` where it exists (it has the name "sky-other", which is ignored, for what LISA's list
    has as "sky"), else LISA's list."""
    images, labels = f"coco/{split}2017", f"cocostuff/{split}2017"
    need("cocostuff", root, images, labels)
    own = root / "cocostuff" / "labels.txt"
    file = own if own.exists() else LISTS / "cocostuff.txt"
    names = {number - 1: name for number, name in numbered(file).items() if number}  # 0, "unlabeled", is IGNORED
    vague = {value for value, name in names.items() if "-" in name}
    classes = Classes.of(names, vague | {IGNORED}, file)
    records = _pairs(root / images, root / labels, classes, every_image=False)
    return _records("cocostuff", split, bad, classes, records)


def numbered(file: Path) -> dict[int, str]:
    """The names by number in lists as COCO-Stuff has them, "1: person"."""
    matches = [re.fullmatch(r"(\d+): *(.+)", line) for line in lines(file)]
    if None in matches:
        raise DataError(f"{str(file)!r} has a line that is not like '1: person'; download it again, or remove it")
    return {int(line[1]): line[2] for line in matches if line}


def mapillary(
    root: Path, split: Split = "train", version: Literal["v1.2", "v2.0"] = "v2.0", bad: Bad = "refuse"
) -> Records:
    """Mapillary Vistas: the value n is the n-th label of its configuration, by its readable name."""
    part, config = {"train": "training", "val": "validation"}[split], f"mapillary/config_{version}.json"
    images, labels = f"mapillary/{part}/images", f"mapillary/{part}/{version}/labels"
    need("mapillary", root, images, labels, config)
    classes = mapillary_classes(root / config)
    return _records(f"mapillary {version}", split, bad, classes, _pairs(root / images, root / labels, classes))


def mapillary_classes(file: Path) -> Classes:
    """Raises DataError, naming `file`, when a label has no readable name."""
    config = read_json(file)
    labels = config.get("labels") if isinstance(config, dict) else None
    if not labels or not isinstance(labels, list):
        raise DataError(f"{str(file)!r} has no list of labels; need Mapillary's own config file")
    readable = [label.get("readable") if isinstance(label, dict) else None for label in labels]
    names = {value: name for value, name in enumerate(readable) if isinstance(name, str) and name.strip()}
    nameless = [value for value in range(len(readable)) if value not in names]
    if nameless:
        raise DataError(f"{str(file)!r}: label {nameless[0]} has no readable name; need Mapillary's own config file")
    void = {value for value, name in names.items() if name.lower() == "unlabeled"}
    return Classes.of(names, void | {IGNORED}, file)
