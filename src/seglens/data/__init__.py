"""Datasets by name. A new family is one file and one line of `DATASETS`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from inspect import signature
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

from seglens.data.coco import coco_data
from seglens.data.folder import folder_data
from seglens.data.jsonl import jsonl_data
from seglens.data.reasonseg import reasonseg
from seglens.data.refer import BUILDERS as REFER
from seglens.data.world import WorldData
from seglens.data.yolo import yolo_data
from seglens.types import Sample


@runtime_checkable
class Dataset(Protocol):
    """Anything with a length and samples by number."""

    @property
    def trainable(self) -> bool:
        """False for data that is kept for tests."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...
    def __iter__(self) -> Iterator[Sample]: ...


DATASETS: dict[str, Callable[..., Dataset]] = {
    "world": WorldData,
    "coco": coco_data,
    "yolo": yolo_data,
    "folder": folder_data,
    "jsonl": jsonl_data,
    **REFER,
    "reasonseg": reasonseg,
}


def load_data(text: str) -> Dataset:
    """A dataset from its name and options: "world:n=500,seed=1". Raises ValueError that says what is wrong."""
    name, _, rest = text.partition(":")
    _check_name(name, DATASETS, "dataset")
    options: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"got {item!r} in {text!r}; options are written key=value, as in world:n=500,seed=1")
        options[key.strip()] = value.strip()
    try:
        return _build(name, options)
    except ValueError as error:
        raise ValueError(f"dataset {text!r}: {error}") from error


def _build(name: str, options: dict[str, str]) -> Dataset:
    """Call the builder with its options as its signature types them."""
    known = signature(DATASETS[name]).parameters
    for key in options:
        _check_name(key, known, f"option of {name}")
    missing = [key for key, p in known.items() if p.default is p.empty and key not in options]
    if missing:
        raise ValueError(f"{name} needs {', '.join(f'{key}=...' for key in missing)}; its options: {', '.join(known)}")
    kinds = get_type_hints(_typed_at(DATASETS[name]))
    return DATASETS[name](**{key: _typed(kinds.get(key, str), key, value) for key, value in options.items()})


def _typed_at(builder: Callable[..., Any]) -> Callable[..., Any]:
    """Where a builder's types are written: a function carries its own, a class those of its `__init__`."""
    return builder.__init__ if isinstance(builder, type) else builder  # type: ignore[misc]


def _typed(kind: Any, key: str, value: str) -> Any:
    """The text of an option as what the builder wants; of `X | None`, X."""
    kind = next((one for one in get_args(kind) if one is not NoneType), kind) if NoneType in get_args(kind) else kind
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"{key}={value} is not {kind.__name__}") from None
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ValueError(f"got {key}={value}; choose from {', '.join(map(str, get_args(kind)))}")
    return Path(value) if kind is Path else value


def _check_name(name: str, known: Iterable[str], what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, list(known), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no {what} {name!r}; choose from {', '.join(known)}{hint}")
