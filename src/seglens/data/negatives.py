"""Queries for classes that an image does not show: from them a head learns to answer that nothing is there.

They are chosen at random from the dataset's own classes, by the id of the image and the seed alone: the same whichever
other images are read. A class that the image may show all the same is never chosen: its name may mean what the image
shows (`related_names`), a record of it is bad or a crowd, the label map has a void, or it was not searched for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from seglens.data.dataset import Dataset
from seglens.data.image_record import ImageRecord, MaskSource, QueryRecord
from seglens.data.maskfile import MaskFile
from seglens.data.masks import Nothing
from seglens.data.query_templates import Prompted
from seglens.data.records import Records
from seglens.data.related_names import related
from seglens.data.rng import pick, words
from seglens.data.spec import parse, write
from seglens.data.subset import Limited

USUAL = 0.2  # share of a training's queries where the data has no absent targets
EXAMINED = 200  # samples of data of an unknown kind; without an absent target there, it is taken to have none


@dataclass(frozen=True)
class Negatives:
    """How many absent targets are asked for: below 1 a share of all queries, on average; else a number per image."""

    names: tuple[str, ...]
    amount: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.amount <= 0 or (self.amount > 1 and not float(self.amount).is_integer()):
            raise ValueError(
                f"got negatives={self.amount:g}; it needs a share of all queries below 1 (0.2), a whole number per "
                "image (1, 2), or 0 for none"
            )

    def __call__(self, entry: ImageRecord, queries: tuple[QueryRecord, ...]) -> tuple[QueryRecord, ...]:
        """The queries for one image, to follow those of its annotation."""
        free = self.absent(entry, queries)
        coin, *more = words(1 + len(free), "negatives", self.seed, entry.id)
        count = min(self._count(len(queries), coin / 2**64), len(free))
        return tuple(_absent_query(entry.id, free[at]) for at in pick(more[:count], len(free)))

    def absent(self, entry: ImageRecord, queries: tuple[QueryRecord, ...]) -> list[str]:
        """The classes that the image surely does not show."""
        held = entry.holds(queries) if callable(entry.holds) else entry.holds
        if held is None or not queries:
            return []
        present = {query.text for query in queries} | held
        names = self.names if entry.absent is None else [name for name in self.names if name in entry.absent]
        return [name for name in names if not any(related(name, one) for one in present)]

    def _count(self, queries: int, coin: float) -> int:
        if self.amount >= 1:
            return int(self.amount)
        expected = queries * self.amount / (1 - self.amount)
        return int(expected) + (coin < expected % 1)


def _absent_query(image: str, name: str) -> QueryRecord:
    return QueryRecord(name, Nothing(), f"{image}, {name} (absent)", "class", id=f"{name} (absent)")


def with_negatives(data: Dataset, amount: float, seed: int = 0) -> Dataset:
    """The same data with queries for what its images do not show; itself for 0.

    Raises ValueError where the data has no list of classes to choose from."""
    if isinstance(data, Limited):
        return Limited(with_negatives(data.inner, amount, seed), data.count)
    if isinstance(data, Prompted):
        return Prompted(with_negatives(data.inner, amount, seed), data.preset, data.seed)
    if amount == 0:
        return data
    names = vocabulary(data)
    if len(names) < 2 or not isinstance(data, Records):
        raise ValueError(
            f"got negatives={amount:g}, and this data has no list of two classes or more to choose from (phrases are "
            "none, and where absent targets are declared, what is not declared is unknown); leave it out, and declare "
            'absent targets where the format can ("absent": true in JSON lines, black=absent for folders)'
        )
    return data.with_queries(f"{data.name} negatives={amount:g}", Negatives(names, amount, seed))


def vocabulary(data: Dataset) -> tuple[str, ...]:
    """The classes that can be asked for where an image does not show them; empty where there is no closed set."""
    if isinstance(data, Limited | Prompted):
        return vocabulary(data.inner)
    return data.vocabulary if isinstance(data, Records) else ()


def for_training(text: str, data: Dataset, usual: float = USUAL) -> tuple[Dataset, str]:
    """Data that may train, and the text that names it, with the usual share of negatives where `text` has no such
    option and there is a closed set of names. Data that is reserved for tests stays as it is."""
    name, options = parse(text)
    if "negatives" in options or not usual or not data.trainable or len(vocabulary(data)) < 2:
        return data, text
    return with_negatives(data, usual), write(name, {**options, "negatives": f"{usual:g}"})


def has_absent(data: Dataset) -> bool:
    """Whether any query of the data is for what its image does not show."""
    if isinstance(data, Prompted):
        return has_absent(data.inner)
    if isinstance(data, Limited) and isinstance(data.inner, Records):
        return any(map(_asks_absent, islice(data.inner.entries, data.count)))
    if isinstance(data, Records):
        return any(map(_asks_absent, data.entries))
    return any(not target.present for sample in islice(data, EXAMINED) for target in sample.drawn().targets)


def _asks_absent(entry: ImageRecord) -> bool:
    if callable(entry.queries) and entry.more is None:  # of a label map: what it shows
        return False
    try:
        return any(_may_be_absent(query.mask) for query in entry.all_queries() if not query.spoken)
    except ValueError:  # a bad label map, which is reported when it is read
        return False


def _may_be_absent(source: MaskSource) -> bool:
    parts = list(_parts(source))
    if all(isinstance(part, Nothing) for part in parts):
        return True
    files = [part for part in parts if isinstance(part, MaskFile) and part.black_is_absent]
    return len(files) == len(parts) and all(part.is_black() for part in files)


def _parts(source: MaskSource) -> Iterator[MaskSource]:
    """The sources that a mask is made from."""
    inside = getattr(source, "sources", None) or [one for one in [getattr(source, "source", None)] if one is not None]
    if not inside:
        yield source
    for one in inside:
        yield from _parts(one)
