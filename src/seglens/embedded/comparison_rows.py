"""The rows of the tables: a method each, with what differs from its default settings, and the budget of every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seglens.data.world import WorldData
from seglens.embedded.heads import embedded_config
from seglens.methods import METHODS

DATA_SEED, EXAM_SEED = 6, 21


@dataclass(frozen=True)
class ComparisonRow:
    """A method, and the settings that differ from those of `embedded_config`."""

    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    warm: bool = False  # start from the adapter of the head in `weights`, with everything else fresh

    def config(self) -> Any:
        return embedded_config(self.method, **self.changes)


CHANGES: dict[str, dict[str, Any]] = {
    "SELF1E": {},
    "F_IMG alone": {"features": "image"},
    "F_V1^HQ alone": {"features": "refilled"},
    "no un-shuffle": {"amplifiers": "none"},
    "un-shuffle of the residual alone": {"amplifiers": "residual"},
    "one MLP for all": {"amplifiers": "shared"},
    "three MLPs": {"amplifiers": "three"},
    "causal attention": {"attention": "causal"},
    "images see each other": {"attention": "images"},
    "images see all words": {"attention": "text"},
    "everybody sees everybody": {"attention": "full"},
    "scanning": {"refill_by": "scan"},
    "without the third MLP": {"combine": False},
    "without the coarse mask's loss": {"coarse_weight": 0.0},
}
SELF1E = {name: ComparisonRow("self1e", changes, warm=True) for name, changes in CHANGES.items()}
MLLMSEG: dict[str, ComparisonRow] = {
    "without step A (detail)": ComparisonRow("mllmseg", {"detail": False}),
    "without the raw patches": ComparisonRow("mllmseg", {"raw": False}),
    "without step B (semantic)": ComparisonRow("mllmseg", {"semantic": False}),
}
ROWS: dict[str, ComparisonRow] = {
    **{name: ComparisonRow(name) for name in METHODS},
    **MLLMSEG,
    **SELF1E,
}
TABLES: dict[str, tuple[str, ...]] = {
    "methods": tuple(METHODS),
    "mllmseg": ("mllmseg", *MLLMSEG),
    "self1e": tuple(SELF1E),
}


@dataclass(frozen=True)
class Plan:
    """The budget of every row, and the data that it is tested on."""

    steps: int = 200
    images: int = 4  # of a step; none is used twice
    queries: int = 3  # of an image, for masks
    talk: int = 1  # questions about an image that are answered in words; a method on a frozen MLLM does not use them
    scenes: int = 60  # of the exam

    def __post_init__(self) -> None:
        for name, least in {"steps": 1, "images": 1, "queries": 1, "talk": 0, "scenes": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"the table got {name}={getattr(self, name)}; it must be {least} or more")

    @property
    def data(self) -> WorldData:
        return WorldData(self.steps * self.images, DATA_SEED, "train", self.queries, self.talk)

    @property
    def exam(self) -> WorldData:
        return WorldData(self.scenes, EXAM_SEED)


def trained(name: str) -> bool:
    """Whether anything of a row is trained: a row without training has one unit, because no seed changes it."""
    return METHODS[ROWS[name].method].trained


def seeds_of(name: str, seeds: int) -> range:
    return range(seeds if trained(name) else 1)
