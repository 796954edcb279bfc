"""The fields of COCO's records, checked: each reader returns the value or raises ValueError with what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from seglens.data.faults import DataError
from seglens.data.image_record import MaskSource
from seglens.data.masks import Polygons, RunLengthDict
from seglens.data.reading import read_json

Id = int | str


def read_tables(file: Path) -> dict[str, list[Any]]:
    content = read_json(file)
    names = ("images", "categories", "annotations")
    missing = [name for name in names if not (isinstance(content, dict) and isinstance(content.get(name), list))]
    if missing:
        raise DataError(f"{file} holds no list of {', '.join(missing)}; it needs COCO's instances json")
    return {name: content[name] for name in names}


def id_of(record: Any, key: str) -> Id:
    if not isinstance(record, dict):
        raise ValueError(f"is {str(record)[:40]!r}, not an object with {key}")
    value = record.get(key)
    if not isinstance(value, int | str):
        raise ValueError(f"has {key} {value!r}; it needs a number (or text)")
    return value


def name_of(record: Any, what: str, otherwise: str) -> str:
    known = isinstance(record, dict) and isinstance(record.get("id"), int | str)
    return f"{what} {record['id']}" if known else otherwise


def own_id(record: dict[str, Any]) -> str | None:
    return str(record["id"]) if isinstance(record.get("id"), int | str) else None


def file_name(record: dict[str, Any]) -> str:
    value = record.get("file_name")
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"has file_name {value!r}; it needs the path of the image")
    return value


def mask_of(record: dict[str, Any]) -> MaskSource:
    value = record.get("segmentation")
    if isinstance(value, dict):
        return RunLengthDict(value)
    if isinstance(value, list) and value:
        return Polygons.of(value)
    raise ValueError(f"has segmentation {str(value)[:60]}; it needs polygons or run lengths (a box alone is no mask)")


def is_crowd(record: dict[str, Any]) -> bool:
    value = record.get("iscrowd", 0)
    if value not in (0, 1):
        raise ValueError(f"has iscrowd {value!r}; it needs 0 or 1")
    return bool(value)


def middle_of_box(record: dict[str, Any]) -> float | None:
    box = record.get("bbox")
    if box is None:
        return None
    try:
        x, _, width, _ = (float(number) for number in box)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"has bbox {str(box)[:60]}; it needs [x, y, width, height]") from None
    if not np.isfinite(x + width):
        raise ValueError(f"has bbox {str(box)[:60]}; it needs numbers of pixels")
    return x + width / 2
