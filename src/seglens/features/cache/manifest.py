"""The manifest of a cache: its key, its data and its division into shards. The first file that is written."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from seglens.features.cache.fingerprint import SCHEMA, CacheError, differing, digest, listed
from seglens.features.cache.whole_files import read_sealed, write_sealed

MANIFEST = "manifest.json"
Stored = Literal["auto", "bf16", "fp16", "int8"]  # auto: the precision of the frozen parts
DTYPES: tuple[str, ...] = get_args(Stored)
PER_SHARD = 64


@dataclass(frozen=True)
class Manifest:
    """`key` identifies the frozen parts; `data` is the text of the dataset, `samples` its length; `trainable` is false
    for data that is kept for tests. `command` is for a person who goes on; it is not part of the cache's identity."""

    key: dict[str, Any]
    data: str
    samples: int
    trainable: bool = True
    dtype: str = "auto"
    per_shard: int = PER_SHARD
    command: str = "seglens cache build"

    def __post_init__(self) -> None:
        if self.samples < 1 or self.per_shard < 1:
            raise CacheError(f"a cache got samples={self.samples}, shard={self.per_shard}; both must be at least 1")
        if self.dtype not in DTYPES:
            raise CacheError(f"a cache got dtype={self.dtype!r}; choose from {', '.join(DTYPES)}")

    @property
    def shards(self) -> int:
        return -(-self.samples // self.per_shard)

    def indices(self, shard: int) -> range:
        """The samples of a shard."""
        return range(shard * self.per_shard, min(self.samples, (shard + 1) * self.per_shard))

    def digest(self) -> str:
        return digest(self.content())

    def content(self) -> dict[str, Any]:
        """Everything that decides the bytes of the shards."""
        return {k: v for k, v in asdict(self).items() if k != "command"} | {"schema": SCHEMA}

    def resume(self, folder: Path) -> str:
        """The sentence that tells a person what to do about a missing or damaged shard."""
        return f"run `{self.command} --out {shlex.quote(str(folder))}` again: it writes only what is missing or damaged"


def shard_paths(folder: Path, shard: int) -> tuple[Path, Path]:
    """The tensors and, written after them, the note: without a note there is no shard."""
    return folder / f"shard-{shard:05d}.safetensors", folder / f"shard-{shard:05d}.json"


def claim(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of a new cache, or find that the folder already holds this one (and return that).

    Raises CacheError when the folder holds another cache, naming the entries that differ."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).exists():
        write_sealed(folder / MANIFEST, manifest.content() | {"command": manifest.command})
    theirs = read_manifest(folder)
    faults = differing(theirs.content(), manifest.content())
    if faults:
        raise CacheError(
            f"{folder} holds another cache ({listed(faults)}); give another folder, or delete this one to build it anew"
        )
    return theirs


def read_manifest(folder: Path) -> Manifest:
    """Raises CacheError when there is none, when it is damaged, or when another version wrote it."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CacheError(f"{folder} holds no feature cache: there is no {MANIFEST}; `seglens cache build` writes one")
    body = read_sealed(path, "restore it, or delete this one file and build again: finished shards are kept")
    schema = body.pop("schema", None)
    if schema != SCHEMA:
        raise CacheError(
            f"{path} is of schema version {schema!r}, and this is version {SCHEMA}; "
            "build the cache again in another folder, or install the SegLens that wrote it"
        )
    if body.keys() != {field.name for field in fields(Manifest)}:
        raise CacheError(f"{path} lacks or adds entries for schema version {SCHEMA}; build the cache again")
    return Manifest(**body)


def read_note(folder: Path, manifest: Manifest, shard: int) -> dict[str, Any]:
    """What is written beside a shard. Raises CacheError when it is missing, damaged, or of another cache."""
    path, remedy = shard_paths(folder, shard)[1], manifest.resume(folder)
    if not path.is_file():
        raise CacheError(f"{path} is missing; {remedy}")
    body = read_sealed(path, remedy)
    faults = differing({k: body.get(k) for k in ("manifest", "shard")}, {"manifest": manifest.digest(), "shard": shard})
    if faults:
        raise CacheError(f"{path} belongs to another cache or place ({listed(faults)}); {remedy}")
    return body


def missing(folder: Path, manifest: Manifest) -> Iterator[int]:
    """The shards that do not exist; whether the others are intact is not checked."""
    for shard in range(manifest.shards):
        if not all(path.is_file() for path in shard_paths(folder, shard)):
            yield shard
