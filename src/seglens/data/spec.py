"""How a dataset is written in one line, NAME:key=value,key=value, and read back; and the values of such options.

A value that holds a comma, or begins with a quote, is put in quotes of either kind: images="photos, old". A quote of
the same kind inside is doubled."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from seglens.core.names import did_you_mean

QUOTES = "\"'"
_HOW = 'options are written key=value, as in world:n=500,seed=1, and a value with a comma in quotes: images="a, b"'


def parse(text: str) -> tuple[str, dict[str, str]]:
    """The name and the options. Raises ValueError that shows how a value is quoted."""
    name, _, rest = text.partition(":")
    options, at = dict[str, str](), 0
    while at < len(rest):
        if rest[at] in ", ":
            at += 1
            continue
        key, equals, _ = rest[at:].partition("=")
        if not equals or "," in key:
            raise ValueError(f"got {rest[at:].partition(',')[0]!r} in {text!r}; {_HOW}")
        value, at = _value(rest, at + len(key) + 1, text)
        if key.strip() in options:
            raise ValueError(f"got {key.strip()} twice in {text!r}; give each option once")
        options[key.strip()] = value
    return name.strip(), options


def _value(rest: str, start: int, text: str) -> tuple[str, int]:
    """The value that begins there, and where it ends."""
    start += len(rest[start:]) - len(rest[start:].lstrip())
    quote = rest[start : start + 1]
    if not quote or quote not in QUOTES:
        end = rest.find(",", start)
        end = len(rest) if end < 0 else end
        return rest[start:end].strip(), end
    quoted = re.compile(f"{quote}((?:[^{quote}]|{quote}{quote})*){quote}\\s*(?=,|$)").match(rest, start)
    if quoted is None:
        raise ValueError(f"got {rest[start:]!r} in {text!r}, a value whose quotes do not end where it ends; {_HOW}")
    return quoted[1].replace(quote * 2, quote), quoted.end()


def write(name: str, options: Mapping[str, object]) -> str:
    """One line that `parse` reads back."""
    items = [f"{key}={_quoted(str(value))}" for key, value in options.items()]
    return f"{name}:{','.join(items)}" if items else name


def _quoted(value: str) -> str:
    if "," not in value and value == value.strip() and value[:1] not in QUOTES:
        return value
    quote = "'" if '"' in value and "'" not in value else '"'
    return quote + value.replace(quote, quote * 2) + quote


def typed_value(kind: Any, key: str, text: str) -> Any:
    """The text of an option as its type: str, Path, int, float, bool, Literal, a tuple of them written with +, or one
    of them or None (written "none", except for a Path). Raises ValueError that names the option and what it takes."""
    # Not pydantic, which takes "yes" and "1" for true, reads no "none" and no "a+b", and names no nearest choice.
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
        if kind is not Path and text.lower() == "none":
            return None
    if get_origin(kind) is tuple:
        return tuple(typed_value(get_args(kind)[0], key, part) for part in text.split("+"))
    if get_origin(kind) is Literal:
        return _choice(get_args(kind), key, text)
    return _READERS[kind](key, text)


def _choice(choices: tuple[str, ...], key: str, text: str) -> str:
    if text not in choices:
        raise ValueError(f"got {key}={text}; choose from {', '.join(choices)}{did_you_mean(text, choices)}")
    return text


def _whole_number(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"got {key}={text}; it must be a whole number") from None


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"got {key}={text}; it must be a number") from None


def _truth(key: str, text: str) -> bool:
    return _choice(("true", "false"), key, text.lower()) == "true"


def _path(key: str, text: str) -> Path:
    """With ~ for the user's home folder: a shell does not expand it after an equals sign."""
    if not text:
        raise ValueError(f"{key}= is empty; write a path after it, or leave it out")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{key}={text} names the home folder of an unknown user; write the path") from None


_READERS: dict[Any, Callable[[str, str], Any]] = {
    str: lambda _, text: text,
    Path: _path,
    int: _whole_number,
    float: _number,
    bool: _truth,
}
