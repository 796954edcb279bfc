"""Writing a feature cache: by any number of processes, which may be killed and started again at any time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from seglens.core.distributed import Ranks
from seglens.core.locks import LOCK, held
from seglens.core.types import Sample
from seglens.data.dataset import PartialDataset
from seglens.data.faults import RecordFault
from seglens.features.cache.fingerprint import CacheError
from seglens.features.cache.manifest import Manifest, claim, shard_paths
from seglens.features.cache.shard_index import Contents, Draft, Skipped
from seglens.features.cache.tensors import PackedTensors, pack
from seglens.features.cache.whole_files import sweep
from seglens.features.frozen import Features

LENIENT = "bad=skip"  # the option of data that leaves bad samples out, which its own errors name
Extract = Callable[[Sample], Features]


@runtime_checkable
class Samples(Protocol):
    """Samples by number, each decoded when it is asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Built:
    """The work of a process: shards written now, shards that were intact, and the samples that either leaves out."""

    written: tuple[int, ...]
    kept: tuple[int, ...]
    skipped: tuple[Skipped, ...]


def build(
    samples: Samples,
    extract: Extract,
    folder: Path,
    manifest: Manifest,
    ranks: Ranks | None = None,
    tick: Callable[[int], None] = lambda images: None,
) -> Built:
    """Write the shards of this process that are not there or not intact. `tick` is called with
    the number of images that are done.

    The bytes do not depend on the number of processes, nor on how often they were killed. Raises CacheError when
    `folder` holds another cache, when a sample cannot be read (unless `samples` is data that leaves such out), when a
    feature is NaN or infinite, and when the disk is full; whatever is finished by then stays. Raises InUseError when
    something is missing, and processes of another launch write there."""
    manifest, ranks = begin(samples, folder, manifest), ranks or Ranks()
    written, kept, skipped = list[int](), list[int](), list[Skipped]()
    with ExitStack() as alone:
        for shard in ranks.share(manifest.shards):
            left = intact(folder, manifest, shard)
            if left is None:
                if not written:  # a complete cache needs no lock: any number of trainings read it
                    alone.enter_context(held(folder / LOCK, ranks.launch))
                left = write(samples, extract, folder, manifest, shard, tick)
                written.append(shard)
            else:
                kept.append(shard)
                tick(len(manifest.indices(shard)))
            skipped += left
    return Built(tuple(written), tuple(kept), tuple(skipped))


def begin(samples: Samples, folder: Path, manifest: Manifest) -> Manifest:
    """Claim the folder, and remove the unfinished files of killed processes."""
    if len(samples) != manifest.samples:
        raise CacheError(f"the manifest is for {manifest.samples} samples, and {manifest.data} has {len(samples)}")
    manifest = claim(folder, manifest)
    sweep(folder)
    return manifest


def intact(folder: Path, manifest: Manifest, shard: int) -> tuple[Skipped, ...] | None:
    """The samples that a shard leaves out; None unless it exists with every byte as it was written."""
    try:
        contents = Contents.read(folder, manifest, shard)
        file = contents.open(folder, manifest, shard)
        for group in range(len(contents.groups)):
            file.verify(group)
    except CacheError:
        return None
    return contents.skipped


def write(
    samples: Samples,
    extract: Extract,
    folder: Path,
    manifest: Manifest,
    shard: int,
    tick: Callable[[int], None] = lambda images: None,
) -> tuple[Skipped, ...]:
    """One shard, in memory until it is whole. Returns the samples that it leaves out."""
    draft = Draft()
    for index in manifest.indices(shard):
        pair, why = read(samples, extract, manifest, index)
        if why:
            draft.skipped.append(Skipped(index, why))
        if pair is not None:
            draft.add(index, *pair)
        tick(1)
    draft.write(folder, manifest, shard)
    return tuple(draft.skipped)


def read(
    samples: Samples, extract: Extract, manifest: Manifest, index: int
) -> tuple[tuple[Sample, PackedTensors] | None, str]:
    """A sample and its tensors, or None where the data leaves it out; and why it, or a question of it, is left out.
    Raises CacheError as `build` does."""
    try:
        sample, faults = samples.usable(index) if isinstance(samples, PartialDataset) else (samples[index], [])
        why = "\n".join(map(_line, faults))
        if sample is None:  # the data is one that leaves bad samples out
            return None, why or f"sample {index} has nothing to ask about"
        if not sample.targets:
            raise ValueError(f"{sample.id!r} has no question")
        sample = sample.drawn()
        if not sample.targets:
            return None, why or f"sample {index} has only questions that are answered in words"
        features = extract(sample)
    except ValueError as error:
        message = " ".join(str(error).split())
        remedy = "" if LENIENT in message else f"; mend it, or where the data can, leave it out with {LENIENT}"
        raise CacheError(f"sample {index} of {manifest.data} cannot be read: {message}{remedy}") from error
    try:
        return (sample, pack(features, manifest.dtype)), why
    except CacheError as error:  # never skipped: the fault is in the parts, not in the data
        raise CacheError(f"sample {index} ({sample.id!r}) of {manifest.data}: {error}") from error


def left_out(faults: Iterable[RecordFault], skipped: Iterable[Skipped]) -> list[str]:
    """Everything that a dataset (by its `faults`) and the caches of it have left out, each thing once."""
    whys = list(dict.fromkeys(why for one in skipped for why in one.why.splitlines()))
    stored = "\n".join(whys)
    return [fault for fault in dict.fromkeys(map(_line, faults)) if fault not in stored] + whys


def _line(fault: RecordFault) -> str:
    return " ".join(str(fault).split())


def complete(folder: Path, manifest: Manifest) -> int:
    """How many shards exist."""
    return sum(all(path.is_file() for path in shard_paths(folder, shard)) for shard in range(manifest.shards))
