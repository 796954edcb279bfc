"""The embedded MLLM's own questions: scenes of the drawn world, answers of one to four words, exact match.

`root` holds the options of the drawn world as in `seglens eval --data`, "n=100,seed=1"; nothing is read from disk.
The questions are those of `seglens eval` (evaluation/embedded_checks.py)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from seglens.data import load_data
from seglens.data.world import WorldData
from seglens.evaluation.embedded_checks import same_answer
from seglens.evaluation.vqa.answers import mean, paired
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion, distinct
from seglens.world.language import VQA_KINDS, speaker
from seglens.world.world import World

PER_SCENE = 4


@dataclass(frozen=True)
class SceneImage:
    """The picture of a scene, drawn when it is loaded."""

    split: str
    seed: int
    index: int

    def check(self) -> None:
        """Every scene can be drawn."""

    def load(self) -> UInt8[np.ndarray, "h w 3"]:
        return World(self.split, self.seed).scene(self.index).image


def read(root: str) -> list[BenchmarkQuestion]:
    """Four questions for each scene, of one kind after the other; fewer where a scene has none of a kind."""
    data = load_data(f"world:{root.removeprefix('world:')}")
    if not isinstance(data, WorldData):
        raise BenchmarkError(f"{root!r} is no drawn world; write its options, such as n=100,seed=1")
    return distinct([question for index in range(data.n) for question in _scene(data, index)], "the world")


def _scene(data: WorldData, index: int) -> Iterator[BenchmarkQuestion]:
    one = speaker(World(data.split, data.seed), index)
    one.intent()  # as in `embedded_checks`: the questions drawn after it depend on it
    picture = SceneImage(data.split, data.seed, index)
    for turn in range(PER_SCENE):
        question = one.question(VQA_KINDS[(index * PER_SCENE + turn) % len(VQA_KINDS)])
        if question is not None:
            name = f"{data.split}-{data.seed}-{index}/{turn}"
            yield BenchmarkQuestion(
                name, question.text, f"world: {name}", question.answer, (picture,), category=question.kind
            )


def score(questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str]) -> dict[str, Any]:
    """The share of answers that are the right words, 0 to 1, over all and by kind."""
    hits: defaultdict[str, list[bool]] = defaultdict(list)
    for question, reply in paired(questions, answers):
        hits[question.category].append(same_answer(reply, str(question.answer)))
    return {
        "questions": len(questions),
        "accuracy": mean([hit for values in hits.values() for hit in values]),
        "by_category": {kind: mean(values) for kind, values in sorted(hits.items())},
    }
