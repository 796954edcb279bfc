"""Datasets by name. A new family is one file and one line of `DATASETS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, get_type_hints

from seglens.core.names import check_name
from seglens.data.coco import coco_data
from seglens.data.conversations import conversations_data
from seglens.data.dataset import Dataset as Dataset
from seglens.data.folder import folder_data
from seglens.data.jsonl import jsonl_data
from seglens.data.negatives import with_negatives
from seglens.data.parts import paco, pascal_part
from seglens.data.pascal import pas20, pc59, pc459
from seglens.data.query_templates import Prompted
from seglens.data.reasonseg import reasonseg
from seglens.data.refer import BUILDERS as REFER
from seglens.data.semantic import ade20k, cocostuff, mapillary
from seglens.data.spec import parse, typed_value
from seglens.data.subset import Limited
from seglens.data.world import WorldData
from seglens.data.yolo import yolo_data

DATASETS: dict[str, Callable[..., Dataset]] = {
    "world": WorldData,
    "coco": coco_data,
    "yolo": yolo_data,
    "folder": folder_data,
    "jsonl": jsonl_data,
    "conversations": conversations_data,
    "ade20k": ade20k,
    "cocostuff": cocostuff,
    "mapillary": mapillary,
    "paco": paco,
    "pascal_part": pascal_part,
    "pc59": pc59,
    "pc459": pc459,
    "pas20": pas20,
    **REFER,
    "reasonseg": reasonseg,
}
Wrap = Callable[[Any, Any], Any]
# Options of every dataset, in the order in which they are applied.
COMMON: dict[str, tuple[type, Wrap]] = {
    "negatives": (float, with_negatives),
    "limit": (int, Limited),
    "prompt": (str, Prompted),
}


def load_data(text: str) -> Dataset:
    """A dataset from its name and options: "world:n=500,seed=1". Raises ValueError with what is wrong.

    A value with a comma is put in quotes (images="a, b"), and ~ at the start of a path is the user's home folder.
    Every dataset takes two more: `limit=N`, its first N images, and `prompt=lens`, its queries in templates. A dataset
    with a closed set of classes takes `negatives=0.2`, a share (or whole number per image) of queries for classes that
    an image does not show."""
    return build(text, DATASETS, "dataset", COMMON)


def build(
    text: str,
    builders: Mapping[str, Callable[..., Any]],
    what: str,
    common: Mapping[str, tuple[type, Wrap]] | None = None,
) -> Any:
    """The result of one of several builders for a text like "world:n=500,seed=1", written as in `spec`. Raises
    ValueError as they do."""
    name, options = parse(text)
    check_name(name, builders, what)
    try:
        return _build(name, builders[name], options, common or {})
    except ValueError as error:
        raise ValueError(f"{what} {text!r}: {error}") from error


def _build(
    name: str, builder: Callable[..., Any], options: dict[str, str], common: Mapping[str, tuple[type, Wrap]]
) -> Any:
    """Call the builder with its options as its signature types them, then apply the common ones."""
    known = signature(builder).parameters
    for key in options:
        check_name(key, [*known, *common], f"option of {name}")
    wraps = {key: options.pop(key) for key in common if key in options and key not in known}
    missing = [key for key, p in known.items() if p.default is p.empty and key not in options]
    if missing:
        raise ValueError(f"{name} needs {', '.join(f'{key}=...' for key in missing)}; its options: {', '.join(known)}")
    kinds = get_type_hints(_typed_at(builder))
    dataset = builder(**{key: typed_value(kinds.get(key, str), key, value) for key, value in options.items()})
    for key, value in wraps.items():
        kind, wrap = common[key]
        dataset = wrap(dataset, typed_value(kind, key, value))
    return dataset


def _typed_at(builder: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the types of a builder's options: of a class, its `__init__`."""
    return builder.__init__ if isinstance(builder, type) else builder  # type: ignore[misc]
