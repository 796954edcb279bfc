"""The examples of a training by number: an endless stream, the same for every process and after every restart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from seglens.core.file_names import slug
from seglens.core.names import check_name
from seglens.core.progress import progress
from seglens.core.types import Sample
from seglens.data import Dataset
from seglens.data.mixing import ATTEMPTS, Epochs, Mixed, SampledImage
from seglens.data.query_templates import Prompted
from seglens.features.cache import MANIFEST, Cache
from seglens.features.examples import Example, ExampleSource, LiveExamples, fingerprint
from seglens.inference.frozen_models import Parts
from seglens.methods.tuned import TunedMethod
from seglens.training.sample_readers import draws_ahead
from seglens.training.tuned_examples import ExampleMaker


@runtime_checkable
class ExampleStream(Protocol):
    """Example n of a training: an image with some of the questions about it."""

    def example(self, number: int) -> Example: ...

    def examples(self, numbers: Iterable[int]) -> Iterator[Example]:
        """Those of `numbers`, in order; they may be read ahead by other processes."""

    def name(self, number: int) -> str:
        """Where image n comes from, for a person."""

    def fingerprint(self) -> str:
        """A hash of everything that decides the examples."""


@runtime_checkable
class Sampler(Protocol):
    """Which source, image and questions come as number n: `Epochs` or a `Mixture`. Its `repr` identifies it."""

    def draw(self, number: int) -> SampledImage: ...


@dataclass(frozen=True)
class SampledStream:
    """From sources of examples (read from disk, or live), in the order of a sampler."""

    sources: Sequence[ExampleSource]
    sampler: Sampler

    def example(self, number: int) -> Example:
        draw = self._draw(number)
        return self.sources[draw.source].example(draw.image, draw.questions, number)

    def examples(self, numbers: Iterable[int]) -> Iterator[Example]:
        return map(self.example, numbers)

    def _draw(self, number: int) -> SampledImage:
        """An image that its data leaves out is replaced by the next that it does not."""
        for tried in range(number, number + ATTEMPTS):
            if (draw := self.sampler.draw(tried)).questions:
                return draw
        raise ValueError(f"{ATTEMPTS} images from number {number} on have no question; look at `seglens data check`")

    def name(self, number: int) -> str:
        draw = self._draw(number)
        return f"image {draw.image}" + (f" of source {draw.source}" if len(self.sources) > 1 else "")

    def fingerprint(self) -> str:
        return fingerprint([[source.fingerprint() for source in self.sources], repr(self.sampler)])


@dataclass(frozen=True)
class MixtureStream:
    """From a mixture of datasets, each sample in new prompts whenever it is drawn and read at that time. `key` is
    everything that decides what `read` makes of a sample and the number of the example. `readers` processes decode
    samples ahead; with none, the process that asks does."""

    mixed: Mixed
    read: Callable[[Sample, int], Example]
    key: Mapping[str, Any]
    readers: int = 0

    def example(self, number: int) -> Example:
        return self.read(self.mixed.sample(number), number)

    def examples(self, numbers: Iterable[int]) -> Iterator[Example]:
        if not self.readers:
            return map(self.example, numbers)
        drawn = draws_ahead(self.mixed, numbers, self.readers)
        return (self.read(self.mixed.noted(one), one.number) for one in drawn)

    def name(self, number: int) -> str:
        return self.mixed.sample(number).id

    def fingerprint(self) -> str:
        datasets = [[dataset.name, len(dataset)] for dataset in self.mixed.datasets]
        reduced = [] if self.mixed.least is None else [self.mixed.least]
        return fingerprint([datasets, repr(self.mixed.mixture), self.mixed.prompt, self.key, *reduced])


@dataclass(frozen=True)
class PartlyCachedStream:
    """A mixture of which some datasets (`caches`, by their number) come from caches, and the others live: the same
    images and questions as all live, in the same order. Of a cached dataset each query has one template for all draws;
    images with bad records are read live, because their questions are counted with the bad ones."""

    live: MixtureStream
    caches: Mapping[int, Cache]

    def example(self, number: int) -> Example:
        draw = self._kept(number)
        return self.live.example(number) if draw is None else self._read(draw, number)

    def examples(self, numbers: Iterable[int]) -> Iterator[Example]:
        all_, others = tee(numbers)
        live = self.live.examples(number for number in others if self._kept(number) is None)
        draws = ((self._kept(number), number) for number in all_)
        return (next(live) if draw is None else self._read(draw, number) for draw, number in draws)

    def _read(self, draw: SampledImage, number: int) -> Example:
        return self.caches[draw.source].example(draw.image, draw.questions, number)

    def _kept(self, number: int) -> SampledImage | None:
        """The draw, by its number in its cache; None for one that is read live."""
        mixture = self.live.mixed.mixture
        for attempt in range(ATTEMPTS):
            source, index = mixture.place(number, attempt)
            image = self.caches[source].image(index) if source in self.caches else None
            if image is None:
                break  # an image that the data leaves out is replaced there
            if questions := mixture.pick(number, self.caches[source].questions(image), attempt):
                return SampledImage(source, image, questions)
        return None

    def name(self, number: int) -> str:
        return self.live.name(number)

    def fingerprint(self) -> str:
        return fingerprint([self.live.fingerprint(), sorted((at, c.fingerprint()) for at, c in self.caches.items())])


def epochs_of(source: ExampleSource, seed: int) -> SampledStream:
    """Every image of one source once per epoch, with all its questions."""
    return SampledStream([source], Epochs(len(source), source.questions, seed))


def tuned_stream(
    parts: Parts, data: Dataset | Mixed, name: str, head: TunedMethod, seed: int, readers: int = 0
) -> ExampleStream:
    """For a method that tunes its MLLM: pictures and words."""
    maker = ExampleMaker(head.mllm, parts.decoder, head.mask_side, head.training_format, seed)
    if isinstance(data, Mixed):
        data = data.reduced(parts.needed_side)
        return MixtureStream(data, lambda sample, number: maker.example(sample, number=number), parts.key, readers)
    return epochs_of(LiveExamples(data, maker.example, name, parts.key), seed)


def frozen_stream(
    parts: Parts,
    data: Dataset | Mixed,
    name: str,
    folder: Path | None,
    seed: int,
    cached: Collection[int] | None = None,
    readers: int = 0,
) -> ExampleStream:
    """For a head on frozen parts: their features, kept in `folder`, or computed at every step when it is None. Of a
    mixture only the datasets with the numbers `cached` are kept there (default all)."""
    if not isinstance(data, Mixed):
        return epochs_of(frozen_source(parts, data, name, folder), seed)
    live = MixtureStream(data.reduced(parts.needed_side), lambda sample, _: parts.read(sample), parts.key, readers)
    if folder is None:
        return live
    if cached is not None:
        caches = {at: _kept(parts, data, at, folder) for at in cached}
        return PartlyCachedStream(live, {at: cache for at, cache in caches.items() if isinstance(cache, Cache)})
    sources = [_kept(parts, data, at, folder) for at in range(len(data.datasets))]
    drawn = zip(data.mixture.sources, sources, strict=True)
    counted = tuple(replace(one, images=len(source), count=source.questions) for one, source in drawn)
    return SampledStream(sources, replace(data.mixture, sources=counted))


def _kept(parts: Parts, data: Mixed, at: int, folder: Path) -> ExampleSource:
    """The cache of one dataset of a mixture, in `folder`."""
    dataset = data.datasets[at]
    return frozen_source(parts, Prompted(dataset, data.prompt), f"{dataset.name} {data.prompt}", folder)


def datasets_named(data: Dataset | Mixed, names: str) -> tuple[int, ...]:
    """The numbers of the datasets of a mixture that are named, separated by commas, by the first word of their names.

    Raises ValueError for data that is no mixture, and for a name that none of its datasets has."""
    if not isinstance(data, Mixed):
        raise ValueError(
            f"got --cache-datasets {names}, and this data is one dataset; leave it out: its features are cached unless "
            "--live is given"
        )
    own = [dataset.name.partition(" ")[0] for dataset in data.datasets]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        check_name(name, own, "dataset of this mixture")
    return tuple(at for at, name in enumerate(own) if name in wanted)


def frozen_source(parts: Parts, data: Dataset, name: str, folder: Path | None) -> ExampleSource:
    """The features of a dataset. `folder` is a finished cache (`seglens cache build`), or holds the caches of datasets
    by their names, where what is missing is computed; None: they are computed whenever they are asked for.

    Raises CacheError when the folder is, or holds under that name, a cache of something else."""
    if folder is None:
        return parts.live(data, name)
    if (folder / MANIFEST).exists():
        return Cache.open(folder, parts.key, name)
    with progress("reading", len(data)) as advance:
        own = folder / slug(name.replace("+", "plus"), longest=80)  # refcoco and refcoco+ are two datasets
        return parts.cached(data, name, own, tick=advance)
