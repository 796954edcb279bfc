"""Datasets by name. A new family is one file and one line of `DATASETS`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any, Protocol, runtime_checkable

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


def _world(**options: Any) -> Dataset:
    from seglens.data.world import WorldData

    defaults: dict[str, Any] = {f.name: f.default for f in fields(WorldData)}
    for key in options:
        _check_name(key, defaults, "option of world")
    return WorldData(**{key: _like(defaults[key], key, value) for key, value in options.items()})


DATASETS: dict[str, Callable[..., Dataset]] = {"world": _world}


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
        return DATASETS[name](**options)
    except ValueError as error:
        raise ValueError(f"dataset {text!r}: {error}") from error


def _like(default: Any, key: str, value: str) -> Any:
    """The value of an option in the type of its default."""
    try:
        return type(default)(value)
    except ValueError:
        raise ValueError(f"{key}={value} is not {type(default).__name__}, as in {key}={default}") from None


def _check_name(name: str, known: Iterable[str], what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, list(known), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no {what} {name!r}; choose from {', '.join(known)}{hint}")
