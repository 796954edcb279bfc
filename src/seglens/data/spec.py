"""How a dataset is written in one line, NAME:key=value,key=value, and read back.

A value that holds a comma, or begins with a quote, is put in quotes of either kind: images="photos, old". A quote of
the same kind inside is doubled."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
    found = re.compile(f"{quote}((?:[^{quote}]|{quote}{quote})*){quote}\\s*(?=,|$)").match(rest, start)
    if found is None:
        raise ValueError(f"got {rest[start:]!r} in {text!r}, a value whose quotes do not end where it ends; {_HOW}")
    return found[1].replace(quote * 2, quote), found.end()


def write(name: str, options: Mapping[str, object]) -> str:
    """One line that `parse` reads back."""
    items = [f"{key}={_quoted(str(value))}" for key, value in options.items()]
    return f"{name}:{','.join(items)}" if items else name


def _quoted(value: str) -> str:
    if "," not in value and value == value.strip() and value[:1] not in QUOTES:
        return value
    quote = "'" if '"' in value and "'" not in value else '"'
    return quote + value.replace(quote, quote * 2) + quote
