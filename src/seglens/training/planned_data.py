"""The data of a training as a plan needs it: which datasets are drawn how often, and which of them come from a cache.

Where the files of LISA's mixture are not here yet, the published numbers of images stand in for them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seglens.core.names import check_name
from seglens.data import Dataset
from seglens.data.lisa_tree import LISA_TREE, DatasetPlace, missing
from seglens.data.mixing import Mixed, parse_rates
from seglens.data.records import Records
from seglens.data.sampling import Mixture, SamplingSource
from seglens.data.spec import parse
from seglens.data.subset import Limited
from seglens.training.example_stream import datasets_named
from seglens.training.presets import Recipe
from seglens.training.training_data import open_data

# training images of LISA's datasets, as their authors publish them
PUBLISHED_IMAGES = {
    "ade20k": 20_210,
    "cocostuff": 118_287,
    "pascal_part": 4_366,
    "paco": 45_790,
    "mapillary": 18_000,
    "refclef": 17_978,
    "refcoco": 16_994,
    "refcoco+": 16_992,
    "refcocog": 21_899,
    "reasonseg": 239,
}
PUBLISHED_QUESTIONS = 3  # about an image: an assumption
COUNTED = 100  # images of a dataset whose questions are counted
READ_SECONDS = 10.0  # at most, of reading images to measure it
READ_IMAGES = 6


@dataclass(frozen=True)
class PlannedDataset:
    """`questions` are those of an image on average, `most` at most among those counted; `draws` is how many images of
    it the run uses on average."""

    name: str
    images: int
    questions: float
    most: int
    draws: float
    cached: bool

    @property
    def per_image(self) -> float:
        """How often an image is drawn."""
        return self.draws / self.images


@dataclass(frozen=True)
class PlannedData:
    """The datasets; the most questions about an image in a pass; the questions of a draw on average; seconds to read
    one image here with one core (None where the files are not here, or nothing is measured); what is assumed."""

    datasets: tuple[PlannedDataset, ...]
    most: int
    questions: float
    read_seconds: float | None
    assumed: tuple[str, ...] = ()

    @property
    def live_draws(self) -> float:
        return sum((one.draws for one in self.datasets if not one.cached), 0.0)


def plan_data(
    text: str, recipe: Recipe, cache: Path | None, live: bool, cached: str | None, measure: bool
) -> PlannedData:
    """By the rules of `prepare`. Raises ValueError as it does, unless only the files of LISA's mixture are missing."""
    draws = float(recipe.training.steps * recipe.training.images)
    if (places := _incomplete(text, recipe)) is not None:
        return _unread(text, places, recipe, draws, None if live else cache, cached)
    data, _ = open_data(text, recipe)
    seconds = _read_seconds(data) if measure else None
    if isinstance(data, Mixed):
        numbers = _chosen(data, cache, live, cached)
        counts = [_questions(dataset) for dataset in data.datasets]
        return _mixture(data.mixture, [one.name for one in data.datasets], counts, draws, numbers, seconds)
    if cached is not None:
        datasets_named(data, cached)
    mean, most = _questions(data)
    one = PlannedDataset(parse(text)[0], len(data), mean, most, draws, not live)
    return PlannedData((one,), most, mean, seconds)


def _chosen(data: Mixed, cache: Path | None, live: bool, cached: str | None) -> Sequence[int]:
    """The numbers of the datasets that come from a cache."""
    if cached is not None:
        return datasets_named(data, cached)
    return range(len(data.datasets)) if (cache is not None or data.read_once) and not live else ()


def _mixture(
    mixture: Mixture,
    names: Sequence[str],
    counts: Sequence[tuple[float, int]],
    draws: float,
    cached: Sequence[int],
    seconds: float | None,
    assumed: tuple[str, ...] = (),
) -> PlannedData:
    shares = mixture.shares
    datasets = tuple(
        PlannedDataset(names[at], source.images, *counts[at], draws * shares[at], at in cached)
        for at, source in enumerate(mixture.sources)
    )
    drawn = sum(share * min(mixture.queries, mean) for share, (mean, _) in zip(shares, counts, strict=True))
    return PlannedData(datasets, mixture.queries, drawn, seconds, assumed)


def _incomplete(text: str, recipe: Recipe) -> dict[str, DatasetPlace] | None:
    """The datasets of LISA's mixture in the rates of `text`, if their files are not all here."""
    name, options = parse(text)
    if name != "lisa" or "root" not in options or options.get("bad") == "skip":
        return None
    rates, root = parse_rates(options.get("rates", recipe.rates)), Path(options["root"]).expanduser()
    places = {name: place for name, place in LISA_TREE.items() if rates[place.group]}
    unknown = places.keys() - PUBLISHED_IMAGES.keys()
    return places if not unknown and any(missing(root, place.needs) for place in places.values()) else None


def _unread(
    text: str,
    places: Mapping[str, DatasetPlace],
    recipe: Recipe,
    draws: float,
    cache: Path | None,
    cached: str | None,
) -> PlannedData:
    options = parse(text)[1]
    rates = parse_rates(options.get("rates", recipe.rates))
    sources = tuple(
        SamplingSource(place.group, PUBLISHED_IMAGES[name], lambda image: PUBLISHED_QUESTIONS)
        for name, place in places.items()
    )
    used = {group: rate for group, rate in rates.items() if rate}
    names = list(places)
    wanted = names if cached is None else [name.strip() for name in cached.split(",")]
    for name in wanted:
        check_name(name, names, "dataset of this mixture")
    numbers = [at for at, name in enumerate(names) if name in wanted] if cached or cache else []
    mixture = Mixture(sources, used, queries=int(options.get("queries", 3)))
    note = (
        f"the files of {text} are not complete here: numbers of images are those published, with "
        f"{PUBLISHED_QUESTIONS} questions each"
    )
    counts = [(float(PUBLISHED_QUESTIONS), PUBLISHED_QUESTIONS)] * len(sources)
    return _mixture(mixture, names, counts, draws, numbers, None, (note,))


def _questions(data: Dataset) -> tuple[float, int]:
    """On average, and at most, among some images spread over the dataset."""
    at = sorted({index * len(data) // min(COUNTED, len(data)) for index in range(min(COUNTED, len(data)))})
    inner = data.inner if isinstance(data, Limited) else data
    if isinstance(inner, Records):
        counts = [inner.count(index) for index in at]
    else:
        counts = [len(data[index].drawn().targets) for index in at[:READ_IMAGES]]
    return sum(counts) / len(counts), max(counts)


def _read_seconds(data: Dataset | Mixed) -> float:
    """For an image with its masks, on one core; the first, in which code and files are first used, is not counted."""
    start, done, first = time.perf_counter(), 0, 0.0
    for number in range(READ_IMAGES):
        _ = data.sample(number) if isinstance(data, Mixed) else data[number * 7 % len(data)]
        done, first = number, first or time.perf_counter() - start
        if time.perf_counter() - start > READ_SECONDS:
            break
    return first if not done else (time.perf_counter() - start - first) / done
