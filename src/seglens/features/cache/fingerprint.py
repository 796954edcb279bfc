"""The inputs of a cache: compared entry by entry, so that an error can name those that differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from seglens.core.text import shortened
from seglens.core.types import Sample

SCHEMA = 1  # of the files; another one is never read
DECIDES = (".safetensors", ".json", ".jinja", ".model", ".txt")  # weights, configs, processors, templates, vocabularies
SHOWN = 4


class CacheError(ValueError):
    """A cache that is damaged, of other inputs, or cannot be written: which file, what is wrong, and what to do."""


def canonical(value: Any) -> bytes:
    """The one text of a JSON value, from which digests are computed. Raises ValueError on NaN, TypeError on no JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def identity(signature: Mapping[str, Any], name: str, commit: str | None = None) -> dict[str, Any]:
    """The identity of a frozen part: of a hub id its name and commit, of a folder its content and not its path."""
    if not Path(name).is_dir():
        return {**signature, "name": name, "revision": signature.get("revision") or commit}
    return {k: v for k, v in signature.items() if k not in ("name", "revision")} | {"files": content(Path(name))}


def content(folder: Path) -> str:
    """One hash of all files in a model's folder that decide its outputs."""
    hashed = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in DECIDES and p.is_file()):
        with path.open("rb") as file:
            hashed.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return hashed.hexdigest()


def differing(actual: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Each entry that is not the same, by its dotted name and with both values."""
    have, want = _flat(actual), _flat(wanted)
    names = sorted(name for name in have.keys() | want.keys() if have.get(name, "nothing") != want.get(name, "nothing"))
    return [f"{name} is {_short(have, name, want)}, wanted {_short(want, name, have)}" for name in names]


def listed(faults: list[str]) -> str:
    """The first of them, and how many more there are."""
    return shortened(faults, SHOWN)


def image_digest(sample: Sample) -> str:
    """Of the decoded pixels: the same picture in another file format is the same picture."""
    hashed = hashlib.sha256(canonical(list(sample.image.shape)))
    hashed.update(sample.image.tobytes())
    return hashed.hexdigest()


def truth_digest(sample: Sample) -> str:
    """Of the masks of all questions, in order."""
    hashed = hashlib.sha256()
    for target in sample.targets:
        hashed.update(canonical(list(target.mask.shape)))
        hashed.update(target.mask.tobytes())
    return hashed.hexdigest()


def _flat(value: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, entry in value.items():
        if isinstance(entry, Mapping):
            flat |= _flat(entry, f"{under}{name}.")
        else:
            flat[f"{under}{name}"] = json.loads(canonical(entry))  # a tuple is a list once it has been in a file
    return flat


def _short(entries: Mapping[str, Any], name: str, other: Mapping[str, Any], longest: int = 60) -> str:
    """The value as JSON; of a long one, the part where it is not like the other."""
    if name not in entries:
        return "nothing"
    text, others = json.dumps(entries[name]), json.dumps(other.get(name))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, others, strict=False)))
    if len(text) <= longest:
        return text
    begin = max(0, min(same - longest // 3, len(text) - longest + 3))
    shown = text[begin : begin + longest - 3]
    return f"{'...' * bool(begin)}{shown}{'...' * (begin + len(shown) < len(text))}"
