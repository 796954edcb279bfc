"""YOLO segmentation labels: one text file per image, one line per object, polygons in shares of the image's sides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from seglens.data.faults import DataError, Note, RecordFault
from seglens.data.image_record import DecodedMask, ImageRecord, QueryRecord
from seglens.data.masks import SLACK, Polygons
from seglens.data.reading import IMAGES, Split, by_stem, located, need_folder, read_text
from seglens.data.records import Bad, Records
from seglens.data.same_words import first_of_name

NO_LABELS = ("classes", "train", "val", "test")  # other text files of exports: names, lists of images


def yolo_data(
    data: Path | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    names: Path | None = None,
    split: Split = "train",
    bad: Bad = "refuse",
) -> Records:
    """The images of a YOLO dataset with the names of their classes as queries; a class of an image is the union of its
    objects.

    `data` is a data.yaml: `path`, a folder (or a list of them, or a text file of images) for each `split`, and `names`
    as a list or a dict. Or `images` is a folder and `names` a text file of one class per line, or a yaml with `names`.
    `path` and the folders count from the file that names them. Labels lie in `labels`, else in the path of the images
    with its last "images" replaced by "labels", else beside the images.

    A line is `class x1 y1 x2 y2 x3 y3 ...`. Classes of one name are one class, with a note. An image with any other
    line is left out, as its object is unknown. An image without a label file, or with an empty one, is a note. Only
    `split=train` may train.

    Raises DataError on a file or folder that cannot be read, and where Records does."""
    if (data is None) == (images is None) or (images is not None and names is None):
        raise DataError("yolo needs data=data.yaml, or images=FOLDER with names=FILE")
    if data is not None:
        words, sources = _of_yaml(data, split)
    else:
        assert images is not None
        assert names is not None
        words, sources = _names(names), [images]
    entries = list(chain(_same_names(words, str(data or names)), *(_records(one, labels, words) for one in sources)))
    texts = {
        query.text
        for one in entries
        if isinstance(one, ImageRecord) and not callable(one.queries)
        for query in one.queries
    }
    names_in_use = tuple(name for name in dict.fromkeys(words.values()) if name in texts)
    return Records(f"yolo {data or images}", entries, trainable=split == "train", bad=bad, vocabulary=names_in_use)


def _same_names(names: dict[int, str], file: str) -> Iterator[Note]:
    for one, first in first_of_name(names).items():
        if one != first:
            yield Note(file, f"class {one}", f"has the name of class {first}, {names[first]!r}; the two are one class")


@dataclass(frozen=True)
class Shares:
    """The union of polygons, each "n 2" of (x, y) in shares of the image's width and height."""

    parts: tuple[Float[np.ndarray, "_ 2"], ...]

    def draw(self, size: tuple[int, int]) -> DecodedMask:
        sides = np.array([size[1], size[0]], np.float64)
        return Polygons([(part * sides).ravel().tolist() for part in self.parts], scaled=True).draw(size)


def _of_yaml(file: Path, split: str) -> tuple[dict[int, str], list[Path]]:
    content = _yaml(file)
    root = file.parent / str(content.get("path") or ".")
    folders = content.get(split)
    if not folders:
        raise DataError(f"{file} has no {split!r} entry; choose a split that it names")
    if "kpt_shape" in content:  # their numbers would be read as corners
        raise DataError(
            f"{file} has kpt_shape: its labels are points of poses, not polygons; export segmentation labels"
        )
    places = folders if isinstance(folders, list) else [folders]
    return _named(content, file), [_place(root, str(place)) for place in places]


def _place(root: Path, folder: str) -> Path:
    """Roboflow writes ../train/images for train/images beside the yaml."""
    sibling = root / folder.removeprefix("../")
    return sibling if not (root / folder).exists() and sibling.exists() else root / folder


def _names(file: Path) -> dict[int, str]:
    if file.suffix.lower() in (".yaml", ".yml"):
        return _named(_yaml(file), file)
    lines = [line.strip() for line in read_text(file).strip().splitlines()]
    return _named({"names": lines}, file)


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise DataError(f"{file} is not YAML ({' '.join(str(error).split())}); export it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{file} holds no keys; it needs path, train, val and names")
    return content


def _named(content: dict[str, Any], file: Path) -> dict[int, str]:
    names = content.get("names")
    table = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(table, dict) or not table:
        raise DataError(f"{file} has no names; it needs a list of class names, or a dict from number to name")
    for key, name in table.items():
        if not isinstance(key, int) or not isinstance(name, str) or not name.strip():
            raise DataError(
                f"{file} names class {key!r} {name!r}; it needs a number and words (quote yes, no and dates)"
            )
    if content.get("nc") not in (None, len(table)):
        raise DataError(f"{file} has nc: {content['nc']} and names of {len(table)} classes; mend one of them")
    return {key: name.strip() for key, name in table.items()}


def _records(source: Path, labels: Path | None, names: dict[int, str]) -> Iterator[ImageRecord | RecordFault | Note]:
    """The records of one folder (or text file) of images."""
    if source.is_file():
        yield from _listed(source, labels, names)
        return
    need_folder(source, "path and the folders of a data.yaml count from the file itself")
    images, twins = by_stem(source, IMAGES)
    texts = need_folder(labels if labels is not None else _label_place(source), "labels= names it")
    lines, faults = by_stem(texts, frozenset((".txt",)))
    yield from twins + faults
    known = {*images, *(fault.record for fault in twins), *NO_LABELS}
    for stem, path in lines.items():
        if stem not in known:
            yield RecordFault(str(path), stem, f"labels an image that {source} does not hold", "image")
    for stem, path in images.items():
        yield from _entry(path, lines.get(stem, texts / f"{stem}.txt"), str(path), names)


def _listed(source: Path, labels: Path | None, names: dict[int, str]) -> Iterator[ImageRecord | RecordFault | Note]:
    for number, line in enumerate(read_text(source).splitlines(), 1):
        if not line.strip():
            continue
        path = located(source.parent, line.strip())
        if not path.is_file():
            yield RecordFault(str(source), f"line {number}", f"there is no file {str(path)!r}", "image")
            continue
        place = labels if labels is not None else _label_place(path.parent)
        yield from _entry(path, place / f"{path.stem}.txt", str(path), names)


def _label_place(folder: Path) -> Path:
    parts = list(folder.parts)
    if "images" not in parts:
        return folder
    at = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:at], "labels", *parts[at + 1 :])


def _entry(image: Path, label: Path, key: str, names: dict[int, str]) -> Iterator[ImageRecord | RecordFault | Note]:
    if not label.is_file():
        yield Note(str(label), key, "the image has no label file")
        return
    try:
        lines = read_text(label).splitlines()
    except DataError as error:
        yield RecordFault(str(label), key, str(error))
        return
    objects: dict[int, list[np.ndarray]] = {}
    faults, same = [], first_of_name(names)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one, polygon = _object(line.split(), names)
            one = same[one]
        except ValueError as error:
            faults.append(RecordFault(str(label), f"line {number}", str(error)))
        else:
            objects.setdefault(one, []).append(polygon)
    yield from faults
    if not faults and not objects:
        yield Note(str(label), key, "the image has no object")
    elif not faults:
        queries = (
            QueryRecord(names[one], Shares(tuple(parts)), f"{key}, {names[one]}", "class", id=names[one])
            for one, parts in objects.items()
        )
        yield ImageRecord(key, image, str(label), tuple(queries))


def _object(tokens: list[str], names: dict[int, str]) -> tuple[int, Float[np.ndarray, "_ 2"]]:
    try:
        number, numbers = float(tokens[0]), np.array(tokens[1:], np.float64)
    except ValueError:
        raise ValueError(f"got {' '.join(tokens)[:60]!r}; a line needs a class number and coordinates") from None
    if not number.is_integer():
        raise ValueError(f"begins with {tokens[0]}; a line needs a class number, which is a whole number")
    one = int(number)  # tools that write tables of numbers make "0.0" of it
    if one not in names:
        raise ValueError(f"is of class {one}, which has no name; the names are those of {min(names)} to {max(names)}")
    if len(numbers) in (4, 5):
        confidence = " with a confidence" if len(numbers) == 5 else ""
        raise ValueError(
            f"holds a box{confidence}, not a polygon; export segmentation labels: class x1 y1 x2 y2 x3 y3 ..."
        )
    if len(numbers) > 6 and len(numbers) % 2:
        raise ValueError(
            f"holds {len(numbers)} coordinates, an odd number; if the last one is a confidence, write the labels "
            "without (`yolo predict save_txt` without save_conf); else one of x and y is missing"
        )
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"holds {len(numbers)} coordinates; a polygon needs x and y of at least three points")
    if not np.isfinite(numbers).all():
        raise ValueError("holds a coordinate that is not a number (NaN or infinity)")
    if numbers.min() < -SLACK or numbers.max() > 1 + SLACK:
        worst = numbers[np.abs(numbers - 0.5).argmax()]
        raise ValueError(
            f"holds the coordinate {worst:g}; shares of the image's sides are 0 to 1: divide pixels by them"
        )
    return one, numbers.reshape(-1, 2)
