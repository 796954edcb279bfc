"""The note beside a shard: which samples are in it, where, and made of what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from seglens.core.types import Sample
from seglens.features.cache.fingerprint import CacheError, image_digest, truth_digest
from seglens.features.cache.manifest import Manifest, read_note, shard_paths
from seglens.features.cache.shard import ShardFile, Span, write_shard
from seglens.features.cache.tensors import PackedTensors, TensorLayout
from seglens.features.cache.whole_files import write_sealed


@dataclass(frozen=True)
class ShardEntry:
    """An image of a shard: `index` in its dataset, hashes of its pixels and of its masks, its questions."""

    index: int
    id: str
    image: str
    truth: str
    questions: tuple[str, ...]
    layout: int = 0

    @classmethod
    def of(cls, index: int, sample: Sample, layout: int = 0) -> ShardEntry:
        questions = tuple(target.query for target in sample.targets)
        return cls(index, sample.id, image_digest(sample), truth_digest(sample), questions, layout)


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, or in which a question could not, and why: a line for each bad record."""

    index: int
    why: str


@dataclass(frozen=True)
class Arrangement:
    """What the images of a shard share: the grid, and the precision (`spoken`) of each output of the frozen parts."""

    grid: tuple[int, int]
    spoken: dict[str, str]


@dataclass(frozen=True)
class Contents:
    """A shard's images; its groups of tensors are first those of `layouts`, then those of `samples`."""

    size: int
    sha256: str
    header: Span
    groups: tuple[Span, ...]
    layouts: tuple[Arrangement, ...]
    samples: tuple[ShardEntry, ...]
    skipped: tuple[Skipped, ...]

    @classmethod
    def read(cls, folder: Path, manifest: Manifest, shard: int) -> Contents:
        """Raises CacheError when the note is missing, damaged, or of another cache."""
        note = read_note(folder, manifest, shard)
        try:
            return cls(
                note["size"],
                note["sha256"],
                Span(*note["header"]),
                tuple(Span(*span) for span in note["groups"]),
                tuple(Arrangement(tuple(one["grid"]), one["spoken"]) for one in note["layouts"]),
                tuple(ShardEntry(**{**entry, "questions": tuple(entry["questions"])}) for entry in note["samples"]),
                tuple(Skipped(**skipped) for skipped in note["skipped"]),
            )
        except (KeyError, TypeError) as error:
            raise CacheError(
                f"{shard_paths(folder, shard)[1]} lacks or adds entries ({error}); {manifest.resume(folder)}"
            ) from error

    def open(self, folder: Path, manifest: Manifest, shard: int) -> ShardFile:
        """Raises CacheError when the tensors are not those of the note."""
        path = shard_paths(folder, shard)[0]
        return ShardFile(path, self.size, self.header, self.groups, self.called, manifest.resume(folder))

    def called(self, group: int) -> str:
        """The name of a group of tensors, for an error."""
        sample = group - len(self.layouts)
        return f"sample {self.samples[sample].id!r}" if sample >= 0 else "the layout of its images"


@dataclass
class Draft:
    """A shard that is not written yet."""

    layouts: list[tuple[TensorLayout, Arrangement]] = field(default_factory=list)
    samples: list[tuple[ShardEntry, dict[str, Tensor]]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, index: int, sample: Sample, packed: PackedTensors) -> None:
        entry = ShardEntry.of(index, sample, self._layout(packed))
        self.samples.append((entry, packed.tensors))

    def write(self, folder: Path, manifest: Manifest, shard: int) -> None:
        """The tensors, then the note that makes them a shard."""
        tensors, note = shard_paths(folder, shard)
        written = write_shard(tensors, self.groups())
        body = Contents(
            written.size,
            written.sha256,
            written.header,
            written.groups,
            tuple(arrangement for _, arrangement in self.layouts),
            tuple(entry for entry, _ in self.samples),
            tuple(self.skipped),
        )
        write_sealed(note, self.note(body) | {"manifest": manifest.digest(), "shard": shard})

    def groups(self) -> Sequence[dict[str, Tensor]]:
        shared = [
            {"prefix_positions": layout.prefix_positions, "image_tokens": layout.image_tokens}
            for layout, _ in self.layouts
        ]
        return shared + [tensors for _, tensors in self.samples]

    @staticmethod
    def note(contents: Contents) -> dict[str, Any]:
        return asdict(contents)

    def _layout(self, packed: PackedTensors) -> int:
        own = Arrangement(packed.layout.grid, packed.spoken)
        for number, (layout, arrangement) in enumerate(self.layouts):
            if arrangement == own and layout.same(packed.layout):
                return number
        self.layouts.append((packed.layout, own))
        return len(self.layouts) - 1
