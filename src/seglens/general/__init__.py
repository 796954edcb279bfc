"""What the untouched MLLM can do in general. A new benchmark is one file and one line of `BENCHMARKS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglens.general import mmbench, mme, mmmu, mmstar, pope, world
from seglens.general.questions import BenchmarkError, Question
from seglens.general.running import checked, read_answers, run, take, whole

Read = Callable[[str], list[Question]]
Score = Callable[[Sequence[Question], Mapping[str, str]], dict[str, Any]]
Submit = Callable[[Path, Sequence[Question], Mapping[str, str]], None]


@dataclass(frozen=True)
class Benchmark:
    """A reader of the benchmark's own files, its scorer (a pure function), how many tokens an answer may have (LLaVA's
    evaluation scripts: 128), and how to hand in answers where the right ones are secret."""

    read: Read
    score: Score
    max_new_tokens: int = 128
    submit: Submit | None = None


BENCHMARKS: dict[str, Benchmark] = {
    "mme": Benchmark(mme.read, mme.score),
    "mmbench": Benchmark(mmbench.read, mmbench.score, submit=mmbench.write_submission),
    "mmbench-circular": Benchmark(mmbench.read_circular, mmbench.score, submit=mmbench.write_submission),
    "mmmu": Benchmark(mmmu.read, mmmu.score),
    "mmstar": Benchmark(mmstar.read, mmstar.score),
    "pope": Benchmark(pope.read, pope.score),
    "world-vqa": Benchmark(world.read, world.score, max_new_tokens=12),
}

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkError", "Question", "checked", "read_answers", "run", "take", "whole"]
