"""All faults of a cache, found at once instead of in the middle of a training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from seglens.features.cache.fingerprint import CacheError
from seglens.features.cache.manifest import Manifest, read_manifest, shard_paths
from seglens.features.cache.shard_index import Contents, ShardEntry
from seglens.features.cache.writer import Samples

NAMES = {"id": "its id", "image": "its pixels", "questions": "its questions", "truth": "its masks"}


def check(folder: Path, samples: Samples | None = None) -> Iterator[str]:
    """A line for each fault: of the files, down to the last byte; with `samples`, also where they are others by now.

    Raises CacheError when the manifest cannot be read: then the rest cannot be checked."""
    manifest = read_manifest(folder)
    if samples is not None and len(samples) != manifest.samples:
        yield f"{folder} was made of {manifest.samples} samples, and the data has {len(samples)}; build it anew"
        samples = None
    compared = 0  # samples of the first shard that can be read
    for shard in range(manifest.shards):
        try:
            contents = Contents.read(folder, manifest, shard)
        except CacheError as error:
            yield str(error)
            continue
        yield from _files(folder, manifest, shard, contents)
        if samples is not None and not compared:
            compared = len(contents.samples)
            if compared and all(_other(samples, entry) for entry in contents.samples):
                yield (
                    f"{folder} was made of other data: nothing of its first {compared} samples is in this; compare it "
                    f"with {manifest.data}, or build a cache of this data in another folder"
                )
                samples = None
        if samples is not None:
            yield from _stale(samples, shard_paths(folder, shard)[0], contents)


def _files(folder: Path, manifest: Manifest, shard: int, contents: Contents) -> Iterator[str]:
    try:
        file = contents.open(folder, manifest, shard)
    except CacheError as error:
        yield str(error)
        return
    faults = 0
    for group in range(len(contents.groups)):
        try:
            file.verify(group)
        except CacheError as error:
            faults += 1
            yield str(error)
    if not faults:
        with file.path.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
        if actual != contents.sha256:  # the quick checksums do not detect a deliberate change
            yield f"{file.path} is not the file that was written: its SHA-256 differs; {manifest.resume(folder)}"


def _stale(samples: Samples, path: Path, contents: Contents) -> Iterator[str]:
    for entry in contents.samples:
        try:
            changed = _changed(samples, entry)
        except ValueError as error:
            yield f"{path}: sample {entry.id!r} can no longer be read: {error}"
            continue
        if changed:
            yield f"{path}: sample {entry.id!r} is stale: {', '.join(changed)} changed since; build the cache anew"


def _other(samples: Samples, entry: ShardEntry) -> bool:
    try:
        return len(_changed(samples, entry)) == len(NAMES)
    except ValueError:
        return False


def _changed(samples: Samples, entry: ShardEntry) -> list[str]:
    """Raises ValueError when the sample cannot be read."""
    now = ShardEntry.of(entry.index, samples[entry.index].drawn(), entry.layout)
    return [words for name, words in NAMES.items() if getattr(now, name) != getattr(entry, name)]
