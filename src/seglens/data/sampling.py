"""Which images and questions a training step sees, as pure functions of the seed and the step.

There is no state: a resumed run, another number of workers or of processes gets the same stream. `Mixture` draws as
LISA does (with replacement, by group, then dataset, then image, then questions); `Epochs` shows every image of one
dataset once per epoch.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import accumulate

import torch

from seglens.core.names import check_name
from seglens.core.types import Sample
from seglens.data.faults import DataError, RecordFault
from seglens.data.query_templates import PROMPTS, prompted
from seglens.data.records import Records
from seglens.data.rng import below, pick, words

VQA = "vqa"  # the group of questions that are answered in words alone
ATTEMPTS = 100
Count = Callable[[int], int]  # the questions of an image


@dataclass(frozen=True)
class SampledImage:
    """One image of a batch and its questions, all as indices."""

    source: int
    image: int
    questions: tuple[int, ...]


@dataclass(frozen=True)
class SamplingSource:
    """What drawing needs of a dataset: its group, its images, how many questions each of them has, and how often it is
    drawn, relative to the others of its group."""

    group: str
    images: int
    count: Count = field(repr=False)
    weight: int = 1


@dataclass(frozen=True)
class Mixture:
    """Draws by sample rates: a group by its rate, a dataset of it by its weight and an image of that uniformly, all
    with replacement; then up to `queries` of its questions without replacement.

    `rates` are per group and need not add up to one. Raises ValueError when a group with a rate has no dataset (its
    share would silently go to others), or a dataset has no images or a group of unknown rate."""

    sources: tuple[SamplingSource, ...]
    rates: Mapping[str, float | int]
    seed: int = 0
    queries: int = 3

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise ValueError(f"the mixture got queries={self.queries}; it must be at least 1")
        if any(not 0 <= rate < float("inf") for rate in self.rates.values()) or not sum(self.rates.values()):
            raise ValueError(f"the mixture got the rates {dict(self.rates)}; need numbers from 0 up, one above 0")
        for source in self.sources:
            check_name(source.group, self.rates, "group")
            if source.images < 1:
                raise ValueError(f"a dataset of {source.group} has no images; leave it out")
            if source.weight < 1:
                raise ValueError(f"a dataset of {source.group} got weight={source.weight}; it must be at least 1")
        empty = [group for group, _, members in self._groups if not members]
        if empty:
            raise ValueError(f"the mixture has no dataset of {', '.join(empty)}; give one, or the rate 0")

    @cached_property
    def _groups(self) -> list[tuple[str, int, list[int]]]:
        """The groups that have a rate: the name, the end of its share of the 64-bit words, its sources."""
        used = [(group, rate) for group, rate in self.rates.items() if rate]
        ends = list(accumulate(rate for _, rate in used))
        return [
            (group, round(2**64 * (end / ends[-1])), [at for at, one in enumerate(self.sources) if one.group == group])
            for (group, _), end in zip(used, ends, strict=True)
        ]

    @property
    def shares(self) -> list[float]:
        """The share of all draws that each source gets."""
        total, weights = sum(self.rates[group] for group, _, _ in self._groups), dict[str, int]()
        for source in self.sources:
            weights[source.group] = weights.get(source.group, 0) + source.weight
        return [self.rates[one.group] / total * one.weight / weights[one.group] for one in self.sources]

    def place(self, number: int, attempt: int = 0) -> tuple[int, int]:
        """The source and image of draw `number`, before its questions are known."""
        which, where, image = words(3, "place", self.seed, number, attempt)
        members = next(members for _, end, members in self._groups if which < end)
        ends = list(accumulate(self.sources[at].weight for at in members))
        source = members[bisect(ends, below(where, ends[-1]))]
        return source, below(image, self.sources[source].images)

    def pick(self, number: int, count: int, attempt: int = 0) -> tuple[int, ...]:
        """The questions of draw `number` when its image has `count`: all of them, in order, if these are not more than
        `queries`."""
        return _pick(self.queries, count, "pick", self.seed, number, attempt)

    def draw(self, number: int) -> SampledImage:
        """Draw `number` of an endless stream. An image without questions is drawn again."""
        for attempt in range(ATTEMPTS):
            source, image = self.place(number, attempt)
            questions = self.pick(number, self.sources[source].count(image), attempt)
            if questions:
                return SampledImage(source, image, questions)
        raise ValueError(f"draw {number} met {ATTEMPTS} images with nothing to ask about; check the datasets")

    def batch(self, step: int, size: int) -> tuple[SampledImage, ...]:
        """The global batch of a step; process r of n takes `[r::n]` of it."""
        return tuple(map(self.draw, range(step * size, (step + 1) * size)))


@dataclass(frozen=True)
class Epochs:
    """Every image of one dataset once per epoch, in another order each epoch; all its questions, or `queries` of them,
    others in each epoch. A batch may end one epoch and begin the next."""

    images: int
    count: Count = field(repr=False)
    seed: int = 0
    queries: int | None = None

    def __post_init__(self) -> None:
        if self.images < 1 or (self.queries is not None and self.queries < 1):
            raise ValueError(f"epochs got images={self.images}, queries={self.queries}; both must be at least 1")

    def draw(self, number: int) -> SampledImage:
        """Draw `number` of an endless stream."""
        epoch, at = divmod(number, self.images)
        image = _shuffled(self.seed, epoch, self.images)[at]
        return SampledImage(0, image, _pick(self.queries, self.count(image), "epochs", self.seed, epoch, image))

    def batch(self, step: int, size: int) -> tuple[SampledImage, ...]:
        """The global batch of a step; process r of n takes `[r::n]` of it."""
        return tuple(map(self.draw, range(step * size, (step + 1) * size)))


def _pick(most: int | None, count: int, *key: int | str) -> tuple[int, ...]:
    return tuple(range(count)) if most is None or count <= most else pick(words(most, *key), count)


@lru_cache(maxsize=4)  # milliseconds for a large dataset, and the next draw asks for the same epoch
def _shuffled(seed: int, epoch: int, total: int) -> tuple[int, ...]:
    return tuple(torch.randperm(total, generator=torch.Generator().manual_seed(seed * 100_003 + epoch)).tolist())


@dataclass(frozen=True)
class DecodedDraw:
    """One image that was decoded for a draw: its dataset, how many of its targets are usable, and what is bad."""

    source: int
    targets: int
    faults: tuple[RecordFault, ...]


@dataclass(frozen=True)
class DrawnSample:
    """The sample of a draw, None where no image could be used, and the images that were decoded for it, in order."""

    number: int
    sample: Sample | None
    tried: tuple[DecodedDraw, ...]


class Mixed:
    """The samples of a mixture: only the masks of the chosen questions are decoded, prompts are new with each draw.
    `read_once`: it is small, and a training keeps its features, unless it is to read it live. `least`: pixels that
    both sides of a picture keep, at least, when it is reduced; None: no picture is."""

    least: int | None = None

    def __init__(self, datasets: Sequence[Records], mixture: Mixture, prompt: str = "none", read_once: bool = False):
        check_name(prompt, PROMPTS, "prompt")
        if [len(dataset) for dataset in datasets] != [source.images for source in mixture.sources]:
            raise ValueError("the mixture was set up for other datasets; it needs their lengths, in their order")
        held_out = [dataset.name for dataset in datasets if not dataset.trainable]
        if held_out:
            raise ValueError(f"{', '.join(held_out)} is kept for tests and cannot be trained on; give split=train")
        self.datasets, self.mixture, self.prompt, self.read_once = datasets, mixture, prompt, read_once

    def reduced(self, least: int | None) -> Mixed:
        """The same samples, large pictures reduced to `least` pixels along the shorter side or somewhat more."""
        copied = copy(self)
        copied.least = least
        return copied

    @property
    def spoken(self) -> bool:
        """Whether some questions are answered in words alone: only methods that tune their MLLM can learn that."""
        return bool(self.mixture.rates.get(VQA))

    def sample(self, number: int) -> Sample:
        """The image of draw `number` with its chosen questions. One with nothing to ask, or left out as bad, is drawn
        again; raises DataError on a bad one with bad=refuse, and on too many with few."""
        return self.noted(self.draw(number))

    def draw(self, number: int) -> DrawnSample:
        """What `sample` decodes, without counting it: for a process that reads ahead."""
        tried = list[DecodedDraw]()
        for attempt in range(ATTEMPTS):
            source, image = self.mixture.place(number, attempt)
            choose = partial(self.mixture.pick, number, attempt=attempt)
            sample, faults = self.datasets[source].decode(image, choose, self.least)
            tried.append(DecodedDraw(source, 0 if sample is None else len(sample.targets), tuple(faults)))
            if sample is not None:
                sample = prompted(sample, self.prompt, self.mixture.seed * 1_000_003 + number)
                return DrawnSample(number, sample, tuple(tried))
        return DrawnSample(number, None, tuple(tried))

    def noted(self, drawn: DrawnSample) -> Sample:
        """The sample, after its dataset has counted what was decoded and keeps its faults. Raises as `sample` does."""
        for one in drawn.tried:
            self.datasets[one.source].note(one.targets, one.faults)
        if drawn.sample is None:
            raise DataError(
                f"draw {drawn.number} met {ATTEMPTS} images that cannot be used; run a check of the datasets"
            )
        return drawn.sample
