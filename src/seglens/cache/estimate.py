"""What a cache will weigh, from a handful of its samples."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from seglens.cache.build import Bad, Extract, Samples, read
from seglens.cache.contents import Draft, Skipped
from seglens.cache.key import CacheError
from seglens.cache.manifest import Manifest
from seglens.cache.shard import lay_out
from seglens.cache.whole import size

HANDFUL = 6  # samples
SPREAD = 0.618034  # of the dataset from one to the next, the golden ratio: evenly, and in step with no period of it


@dataclass(frozen=True)
class Estimate:
    """`images` is exact; `questions` and `bytes` are what the handful promises. `free` is what the disk has left, and
    `stored` what of the cache is there already."""

    images: int
    questions: int
    bytes: int
    free: int
    stored: int = 0

    def __str__(self) -> str:
        there = f", {size(self.stored)} of it there" if self.stored else ""
        return (
            f"{self.images} images, about {self.questions} questions, about {size(self.bytes)} "
            f"({size(self.bytes / self.images)} per image{there}); the disk has {size(self.free)} free"
        )

    def refuse(self, folder: Path) -> None:
        """Raises CacheError when the rest does not fit."""
        if self.bytes - self.stored > self.free:
            raise CacheError(
                f"{folder} has no room for the cache: {self}; give another disk, store with --dtype int8, "
                "or start all the same with --any-room (a full disk stops it, and room lets it go on)"
            )


def estimate(samples: Samples, extract: Extract, folder: Path, manifest: Manifest, bad: Bad = "refuse") -> Estimate:
    """Read a handful of samples and write nothing. Raises CacheError as `build` does."""
    draft = Draft()
    for index in sorted({int(at * SPREAD % 1 * manifest.samples) for at in range(HANDFUL)}):
        found = read(samples, extract, manifest, index, bad)
        if not isinstance(found, Skipped):
            draft.add(index, *found)
    if not draft.samples:
        raise CacheError(
            f"none of the {HANDFUL} samples tried of {manifest.data} can be read; see `seglens data check`"
        )
    header, ordered = lay_out(draft.groups())
    note = json.dumps([asdict(entry) for entry, _ in draft.samples], indent=1)
    weight = len(header) + len(note) + sum(tensor.nbytes for tensors in ordered for tensor in tensors)
    share = manifest.samples / len(draft.samples)
    questions = sum(len(entry.questions) for entry, _ in draft.samples)
    stored = sum(path.stat().st_size for path in folder.glob("shard-*"))
    return Estimate(manifest.samples, round(questions * share), round(weight * share), _free(folder), stored)


def _free(folder: Path) -> int:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
