"""General abilities of the untouched MLLM. A new benchmark is one file and one line of `BENCHMARKS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seglens.evaluation.vqa import gqa, mmbench, mme, mmmu, mmstar, pope, textvqa, vizwiz, vqa, world
from seglens.evaluation.vqa.answer_files import read_answers
from seglens.evaluation.vqa.questions import BenchmarkError, BenchmarkQuestion
from seglens.evaluation.vqa.running import checked, run, take, whole
from seglens.evaluation.vqa.submissions import Submission

Read = Callable[[str], list[BenchmarkQuestion]]
Score = Callable[[Sequence[BenchmarkQuestion], Mapping[str, str]], dict[str, Any]]


@dataclass(frozen=True)
class Benchmark:
    """A reader of the benchmark's own files, its scorer (a pure function), how many tokens an answer may have (LLaVA's
    evaluation scripts: 128), and how to submit answers where the right ones are secret."""

    read: Read
    score: Score
    max_new_tokens: int = 128
    submission: Submission | None = None


BENCHMARKS: dict[str, Benchmark] = {
    "gqa": Benchmark(gqa.read, gqa.score, vqa.MAX_NEW_TOKENS, gqa.SUBMISSION),
    "mme": Benchmark(mme.read, mme.score),
    "mmbench": Benchmark(mmbench.read, mmbench.score, submission=mmbench.SUBMISSION),
    "mmbench-circular": Benchmark(mmbench.read_circular, mmbench.score, submission=mmbench.SUBMISSION),
    "mmmu": Benchmark(mmmu.read, mmmu.score),
    "mmstar": Benchmark(mmstar.read, mmstar.score),
    "okvqa": Benchmark(vqa.read_okvqa, vqa.score, vqa.MAX_NEW_TOKENS),
    "pope": Benchmark(pope.read, pope.score),
    "textvqa": Benchmark(textvqa.read, textvqa.score, vqa.MAX_NEW_TOKENS, textvqa.SUBMISSION),
    "vizwiz": Benchmark(vizwiz.read, vizwiz.score, vqa.MAX_NEW_TOKENS, vizwiz.SUBMISSION),
    "vqav2": Benchmark(vqa.read_vqav2, vqa.score, vqa.MAX_NEW_TOKENS, vqa.SUBMISSION),
    "world-vqa": Benchmark(world.read, world.score, max_new_tokens=12),
}

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkError",
    "BenchmarkQuestion",
    "Submission",
    "checked",
    "read_answers",
    "run",
    "take",
    "whole",
]
