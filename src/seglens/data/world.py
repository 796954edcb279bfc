"""The drawn world as a dataset: scene i with its queries, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from seglens.core.types import Sample, Target
from seglens.world.chat_phrases import ChatPhrases
from seglens.world.language import Query, speaker
from seglens.world.world import SPLITS, Scene, World


@dataclass(frozen=True)
class WorldData:
    """`n` scenes of the test (or train) split from `seed`, `queries` requests and `vqa` questions with answers each.

    `people` is the share of requests in people's words: "could you trace the cup for me, please?"."""

    n: int = 500
    seed: int = 1
    split: str = "test"
    queries: int = 6
    vqa: int = 0
    people: float = 0.0

    def __post_init__(self) -> None:
        if self.vqa < 0:
            raise ValueError(f"world data got vqa={self.vqa}; it must be 0 or more")
        if not 0 <= self.people <= 1:
            raise ValueError(f"world data got people={self.people}; it must be a share from 0 to 1")
        if self.n < 1 or self.queries < 1:
            raise ValueError(f"world data got n={self.n}, queries={self.queries}; both must be at least 1")
        if self.seed < 0:
            raise ValueError(f"world data got seed={self.seed}; it must be 0 or more")
        if self.split not in SPLITS:
            raise ValueError(f"world data got split={self.split}; choose from {', '.join(SPLITS)}")

    @property
    def trainable(self) -> bool:
        return self.split == "train"

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(self.n))

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.n:
            raise IndexError(f"there is no scene {index}; this world has {self.n}")
        world = World(self.split, self.seed)
        scene = world.scene(index)
        scene_speaker = speaker(world, index, scene)
        queries, people = scene_speaker.queries(self.queries), ChatPhrases(scene_speaker)
        texts = [
            people.request(q.phrase) if self.people and scene_speaker.rng.random() < self.people else q.text
            for q in queries
        ]
        drawn = [Target(text, union(scene, q), kind_of(q)) for text, q in zip(texts, queries, strict=True)]
        nothing = np.zeros(scene.ids.shape, bool)
        spoken = [
            Target(q.text, nothing, "vqa", answer=q.answer, spoken=True) for q in scene_speaker.questions(self.vqa)
        ]
        return Sample(f"{self.split}-{self.seed}-{index}", scene.image, (*drawn, *spoken))


def kind_of(query: Query) -> str:
    """Held-out phrasings are reported separately; an absent target is absent whatever the words of its query."""
    held_out = query.held_out and query.kind == "reasoning"
    return "reasoning (held out)" if held_out else query.kind


def union(scene: Scene, query: Query) -> Bool[np.ndarray, "h w"]:
    """The union of the query's targets: bool "h w", empty when there is none."""
    mask = np.zeros(scene.ids.shape, bool)
    for thing, part in query.targets:
        mask |= scene.mask(thing, part)
    return mask
