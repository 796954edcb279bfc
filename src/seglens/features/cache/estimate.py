"""The size that a cache will have, from a few of its samples."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from seglens.features.cache.fingerprint import CacheError
from seglens.features.cache.manifest import Manifest
from seglens.features.cache.shard import lay_out
from seglens.features.cache.shard_index import Draft
from seglens.features.cache.whole_files import size
from seglens.features.cache.writer import Extract, Samples, read

TRIED = 6  # samples
SPREAD = 0.618034  # of the dataset from one to the next, the golden ratio: evenly, and in step with no period of it


@dataclass(frozen=True)
class Estimate:
    """`images` is exact; `questions` and `bytes` are estimates, and `questions` is exact too where all samples were
    tried (`whole`). `free` is the free space of the disk, and `stored` the size of the part that exists already."""

    images: int
    questions: int
    bytes: int
    free: int
    stored: int = 0
    whole: bool = False

    def __str__(self) -> str:
        questions = f"{'' if self.whole else 'about '}{self.questions} questions"
        there = f", {size(self.stored)} of it there" if self.stored else ""
        return (
            f"{self.images} images, {questions}, about {size(self.bytes)} "
            f"({size(self.bytes / self.images)} per image{there}); the disk has {size(self.free)} free"
        )

    def refuse(self, folder: Path) -> None:
        """Raises CacheError when the rest does not fit."""
        if self.bytes - self.stored > self.free:
            raise CacheError(
                f"{folder} has no room for the cache: {self}; give another disk, store with --dtype int8, "
                "or start all the same with --any-room (a full disk stops it, and room lets it go on)"
            )


def estimate(samples: Samples, extract: Extract, folder: Path, manifest: Manifest) -> Estimate:
    """Read a few samples and write nothing. Raises CacheError as `build` does."""
    draft, tried = Draft(), _spread(manifest.samples)
    for index in tried:
        pair, _ = read(samples, extract, manifest, index)
        if pair is not None:
            draft.add(index, *pair)
    if not draft.samples:
        raise CacheError(
            f"none of the {len(tried)} samples tried of {manifest.data} can be read; see `seglens data check`"
        )
    header, ordered = lay_out(draft.groups())
    note = json.dumps([asdict(entry) for entry, _ in draft.samples], indent=1)
    size_tried = len(header) + len(note) + sum(tensor.nbytes for tensors in ordered for tensor in tensors)
    share = manifest.samples / len(tried)
    questions = sum(len(entry.questions) for entry, _ in draft.samples)
    stored = sum(path.stat().st_size for path in folder.glob("shard-*"))
    whole = len(tried) == manifest.samples
    return Estimate(
        manifest.samples, round(questions * share), round(size_tried * share), free_space(folder), stored, whole
    )


def _spread(samples: int) -> list[int]:
    if samples <= TRIED:
        return list(range(samples))
    return sorted({int(at * SPREAD % 1 * samples) for at in range(TRIED)})


def free_space(folder: Path) -> int:
    """Bytes of the disk that holds the folder, or will hold it."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
