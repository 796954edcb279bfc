"""Reading a feature cache: images by number, mapped into memory, each checked when it is first touched."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglens.features.cache.fingerprint import CacheError, differing, digest, listed
from seglens.features.cache.manifest import Manifest, missing, read_manifest, shard_paths
from seglens.features.cache.shard import ShardFile, Span
from seglens.features.cache.shard_index import Arrangement, Contents, Skipped
from seglens.features.cache.tensors import TensorLayout, unpack
from seglens.features.frozen import Features

MAPPED = 128  # shards kept open at a time: each holds a file descriptor


@dataclass(frozen=True)
class ShardPlace:
    """The part of a shard's note that reading needs, in little memory: a dataset has thousands of shards."""

    size: int
    header: Span
    spans: array[int]  # begin, end and checksum of each group in turn
    layouts: tuple[Arrangement, ...]
    layout: array[int]  # of each image

    @classmethod
    def of(cls, contents: Contents) -> ShardPlace:
        spans = array("q", (value for span in contents.groups for value in span))
        layout = array("q", (entry.layout for entry in contents.samples))
        return cls(contents.size, contents.header, spans, contents.layouts, layout)

    @property
    def groups(self) -> tuple[Span, ...]:
        return tuple(Span(*self.spans[at : at + 3]) for at in range(0, len(self.spans), 3))


class Cache:
    """An `ExampleSource` on disk. Tensors are views of a read-only map: no copy, no memory of their own, never to be
    written into. Image i is the i-th that could be read; `index(i)` is its number in the dataset."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self._starts, self._counts, self._indices = array("q", [0]), array("i"), array("q")
        self._places, seals = list[ShardPlace](), []
        self.skipped = list[Skipped]()  # what the dataset left out
        for shard in range(manifest.shards):
            contents = Contents.read(folder, manifest, shard)
            self._starts.append(self._starts[-1] + len(contents.samples))
            self._counts.extend(len(entry.questions) for entry in contents.samples)
            self._indices.extend(entry.index for entry in contents.samples)
            self._places.append(ShardPlace.of(contents))
            self.skipped += contents.skipped
            seals.append([contents.sha256, [entry.questions for entry in contents.samples]])
        self._fingerprint = digest([manifest.digest(), seals])
        self._partial = frozenset(one.index for one in self.skipped)
        self._open = dict[int, ShardFile]()
        self._checked = dict[int, tuple[tuple[int, int], bytearray]]()

    @classmethod
    def open(cls, path: str | Path, key: Mapping[str, Any] | None = None, data: str | None = None) -> Cache:
        """A finished cache. Where `key` and `data` are given, it must have been made of them.

        Raises CacheError, naming the file, the entry or the shards, when it is of other parts or data, unfinished,
        damaged or of another version. Tensors are checked later, when they are touched."""
        folder = Path(path)
        manifest = read_manifest(folder)
        faults = differing(manifest.key, manifest.key if key is None else key)
        faults += differing({"data": manifest.data}, {"data": manifest.data if data is None else data})
        if faults:
            raise CacheError(
                f"{folder} is a cache of other features ({listed(faults)}); "
                "build one for these in another folder, or give the settings it was built with"
            )
        absent = list(missing(folder, manifest))
        if absent:
            names = listed([shard_paths(folder, shard)[0].name for shard in absent])
            raise CacheError(
                f"{folder} lacks {len(absent)} of {manifest.shards} shards ({names}); {manifest.resume(folder)}"
            )
        cache = cls(folder, manifest)
        if not len(cache):
            raise CacheError(f"{folder} holds no image: every sample was skipped; see `seglens cache check {folder}`")
        return cache

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def trainable(self) -> bool:
        """False when it was made of data that is kept for tests."""
        return self.manifest.trainable

    def index(self, image: int) -> int:
        return self._indices[image]

    def image(self, index: int) -> int | None:
        """The image with this number in the dataset: the inverse of `index`. None where it, or a question about it, was
        left out."""
        image = bisect_left(self._indices, index)
        stored = image < len(self) and self._indices[image] == index
        return image if stored and index not in self._partial else None

    def questions(self, image: int) -> int:
        return self._counts[image]

    def example(self, image: int, questions: Sequence[int], number: int = 0) -> Features:
        """Raises CacheError when the image's bytes are not those that were written."""
        if not 0 <= image < len(self):
            raise IndexError(f"there is no image {image}; {self.folder} holds {len(self)}")
        shard = bisect_right(self._starts, image) - 1
        place, file = self._places[shard], self._shard(shard)
        at = image - self._starts[shard]
        arrangement = place.layouts[place.layout[at]]
        layout = TensorLayout(**file.tensors(place.layout[at]), grid=arrangement.grid)
        return unpack(file.tensors(len(place.layouts) + at), arrangement.spoken, layout, questions)

    def fingerprint(self) -> str:
        """A hash of all that was stored: the same for every copy, however many processes wrote it."""
        return self._fingerprint

    def __reduce__(self) -> tuple[Any, ...]:
        return Cache, (self.folder, self.manifest)  # a worker process maps the files itself

    def _shard(self, shard: int) -> ShardFile:
        file = self._open.get(shard)
        if file is None:
            while len(self._open) >= MAPPED:
                self._open.pop(next(iter(self._open)), None)  # the oldest; tensors in use keep its map alive
            file = self._open[shard] = self._opened(shard)
        return file

    def _opened(self, shard: int) -> ShardFile:
        """A shard; groups that were checked before it was closed stay checked, unless the file has changed since."""
        folder, manifest, place = self.folder, self.manifest, self._places[shard]
        path = shard_paths(folder, shard)[0]

        def called(group: int) -> str:  # without self: a circle would keep the maps until it is collected
            return Contents.read(folder, manifest, shard).called(group)

        file = ShardFile(path, place.size, place.header, place.groups, called, manifest.resume(folder))
        stat = path.stat()
        version = (stat.st_ino, stat.st_mtime_ns)
        known, intact = self._checked.get(shard, (version, file.intact))
        if known == version:
            file.intact = intact
        self._checked[shard] = version, file.intact
        return file
