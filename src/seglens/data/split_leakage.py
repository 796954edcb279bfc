"""Images of training sets that are also in test sets: RefCOCO, + and g split the same photographs in three ways."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglens.core.files import write_new
from seglens.data.faults import DataError, Note, RecordFault
from seglens.data.image_record import ImageRecord

_COCO = re.compile(r"(?:COCO_\w+_)?(\d{12})\.jpg")


def image_key(path: Path) -> str:
    """The name of a photograph in all datasets: COCO's number (the same in the releases of 2014 and 2017), or its
    folder and name."""
    number = _COCO.fullmatch(path.name)
    return f"coco/{int(number[1])}" if number else "/".join(path.parts[-2:])


@dataclass(frozen=True)
class Part:
    """The images of one split of one dataset."""

    name: str
    trainable: bool
    images: frozenset[str]


def part(name: str, entries: Iterable[ImageRecord | RecordFault | Note], trainable: bool) -> Part:
    """Faults are ignored here: loading the data reports them."""
    return Part(name, trainable, frozenset(image_key(one.image) for one in entries if isinstance(one, ImageRecord)))


def report(parts: Sequence[Part]) -> dict[str, Any]:
    """How many images each part has, and how many of each training part are in each other part; the largest first."""
    shared = [
        {"train": a.name, "held_out": b.name, "images": len(a.images & b.images), "of_train": len(a.images)}
        for a in parts
        for b in parts
        if a.trainable and not b.trainable and a.images & b.images
    ]
    return {
        "parts": [{"name": one.name, "trainable": one.trainable, "images": len(one.images)} for one in parts],
        "overlaps": sorted(shared, key=lambda row: (-int(row["images"]), row["train"], row["held_out"])),
        "to_hold_out": len(to_hold_out(parts)),
    }


def to_hold_out(parts: Iterable[Part]) -> list[str]:
    """The keys of every image of a test set: leave them out of all training, and no test image is trained on."""
    return sorted(frozenset[str]().union(*(one.images for one in parts if not one.trainable)))


def without(
    records: Iterable[ImageRecord | RecordFault | Note], keys: Collection[str]
) -> Iterator[ImageRecord | RecordFault | Note]:
    """The records whose image is not among the keys; faults and notes stay."""
    return (one for one in records if not isinstance(one, ImageRecord) or image_key(one.image) not in keys)


def save_keys(path: Path, keys: Iterable[str], overwrite: bool = False) -> None:
    """One key per line. Raises FileExistsError where another file exists, unless `overwrite` is given."""
    write_new({path: "".join(f"{key}\n" for key in keys).encode()}, overwrite)


def load_keys(path: Path) -> frozenset[str]:
    """The keys of a file by `save_keys`. Raises DataError on a file that is missing, empty or not text."""
    try:
        keys = frozenset(filter(None, (line.strip() for line in path.read_text("utf-8-sig").splitlines())))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); need the file that `seglens data overlap --out` wrote"
        ) from None
    wrong = next((key for key in keys if "/" not in key), None)
    if not keys or wrong is not None:
        raise DataError(f"{path} holds {wrong or 'nothing'!r}; need lines such as coco/495169")
    return keys
