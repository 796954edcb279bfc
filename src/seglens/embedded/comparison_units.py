"""The units of the tables: a row with a seed, the bare MLLM, or the features that frozen methods learn from. Each
leaves a report, which stays valid as long as everything that its numbers depend on is the same."""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.head import load_adapter
from seglens.checkpoints.origin import Origin
from seglens.core.file_names import slug
from seglens.data.world import WorldData
from seglens.embedded.comparison_rows import EXAM_SEED, ROWS, Plan, trained
from seglens.embedded.head_stages import example_stream, features
from seglens.embedded.heads import embedded_training
from seglens.embedded.profiling import measured
from seglens.embedded.subprocess_jobs import keep_report, kept_report
from seglens.evaluation.evaluate import run
from seglens.evaluation.summary import summarise
from seglens.evaluation.vqa import world
from seglens.evaluation.vqa.running import run as put
from seglens.features.cache.fingerprint import content
from seglens.inference.frozen_models import Parts, chosen_heads
from seglens.inference.segmenter import Segmenter
from seglens.methods import METHODS, Method, build_method
from seglens.methods.tuned import TunedMethod
from seglens.training.example_stream import ExampleStream, tuned_stream
from seglens.training.trainer import fit

MLLM, SAM = "internvl", "sam"
LAYER = 2  # of 6, at which a frozen MLLM is read: as `seglens probe` finds it
TIMED, ASKED = 5, 10  # images whose questions are timed, and questions of each
LONGEST = 12  # tokens of an answer in words
BARE, READING = "bare", "reading"  # the MLLM before any training; the features that a frozen method learns from

Ask = Callable[[UInt8[np.ndarray, "h w 3"], str, int], str]


@dataclass(frozen=True)
class Bench:
    """The folders: results in `out`, the frozen parts in `weights`."""

    plan: Plan
    out: Path
    weights: Path

    def folder(self, name: str, seed: int = 0) -> Path:
        return self.out / slug(f"{name} seed {seed}", longest=80)

    @cached_property
    def contents(self) -> dict[str, str]:
        """Hashes of the weights."""
        return {part: content(self.weights / part) for part in (MLLM, SAM)}

    def depends_on(self, name: str, seed: int = 0) -> dict[str, Any]:
        """Everything that a unit's numbers depend on: when any of it changes, the unit is run again."""
        plan = self.plan
        values: dict[str, Any] = {"mllm": self.contents[MLLM], "exam": repr(plan.exam), "longest": LONGEST}
        if name == BARE:
            return values
        if name == READING or METHODS[ROWS[name].method].needs_decoder:
            values["sam"] = self.contents[SAM]
        if name == READING or not METHODS[ROWS[name].method].tuned:
            values["layer"] = LAYER
        if name == READING:
            return {**values, "data": repr(plan.data)}
        if not trained(name):
            return {**values, "heads": asdict(ROWS[name].config()), "known": self.heads, "timed": [TIMED, ASKED]}
        training = embedded_training(ROWS[name].method, plan.steps, plan.images, seed)
        row = {"config": asdict(ROWS[name].config()), "training": asdict(training), "data": repr(plan.data)}
        if ROWS[name].warm:
            row["adapter"] = content(self.weights / ROWS[name].method)
        return {**values, **row, "timed": [TIMED, ASKED]}

    @property
    def heads(self) -> dict[str, Any] | None:
        """The localization heads that the package knows of the MLLM."""
        choice = chosen_heads(None, Origin.of(str(self.weights / MLLM)))
        return None if choice is None else asdict(choice)

    def report(self, name: str, seed: int = 0) -> Any | None:
        return kept_report(self.folder(name, seed), self.depends_on(name, seed))

    def parts(self, method: str | None = None) -> Parts:
        """The frozen parts that a method needs (default all), on the GPU if there is one. On a CPU training is fastest
        with eager attention. The layers that generate text are always loaded: their answers are part of the exam."""
        kind = None if method is None else METHODS[method]
        frozen, with_sam = kind is None or not kind.tuned, kind is None or kind.needs_decoder
        return Parts.load(
            Origin.of(str(self.weights / MLLM)),
            Origin.of(str(self.weights / SAM)) if with_sam else None,
            layer=LAYER if frozen else None,
            segmentation_only=False,
            **_loading(),
        )


def _loading() -> dict[str, Any]:
    """How all models are loaded."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"device": device, "dtype": torch.float32, "attn_implementation": "eager"}


def run_unit(bench: Bench, name: str, seed: int) -> None:
    """Run a unit, and write its report."""
    kinds = {BARE: _bare, READING: _reading}
    report = kinds[name](bench) if name in kinds else _row(bench, name, seed)
    keep_report(bench.folder(name, seed), bench.depends_on(name, seed), report)


def _bare(bench: Bench) -> dict[str, Any]:
    return _talk(bench.parts("self1e").backbone.generate, bench.plan)


def _reading(bench: Bench) -> dict[str, Any]:
    parts = bench.parts()
    _, cost = measured(lambda: features(parts, bench.plan.data, bench.out), parts.device)
    return asdict(cost)


def _row(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    segmenter, training = _train(bench, name, seed) if trained(name) else (_untrained(bench), None)
    report: dict[str, Any] = {
        "trainable": sum(p.numel() for p in segmenter.method.parameters() if p.requires_grad),
        "training": training,
        "exam": summarise(run(segmenter, bench.plan.exam)),
        "milliseconds": _times(segmenter),
        "threads": torch.get_num_threads(),
    }
    if name in METHODS:
        report["off"] = _talk(segmenter.backbone.generate, bench.plan)
        report["on"] = _talk(segmenter.reader.generate, bench.plan) if METHODS[name].tuned else None
    return report


def _untrained(bench: Bench) -> Segmenter:
    """The MLLM's own localization heads and SAM, as a user loads them."""
    return Segmenter.from_parts(bench.weights / MLLM, bench.weights / SAM, **_loading())


def _train(bench: Bench, name: str, seed: int) -> tuple[Segmenter, dict[str, Any]]:
    """A segmenter with the trained head, and what the training took and ended with."""
    row, plan = ROWS[name], bench.plan
    parts, config = bench.parts(row.method), row.config()
    torch.manual_seed(seed)
    head = build_method(config, parts.backbone, parts.decoder).to(parts.device)
    if row.warm:
        load_adapter(bench.weights / row.method, head)
    stream = _stream(bench, parts, head, seed)
    training, (backbone, decoder) = embedded_training(row.method, plan.steps, plan.images, seed), parts.origins()
    head_config = HeadConfig(
        row.method, asdict(config), backbone, None if METHODS[row.method].tuned else LAYER, decoder
    )
    folder = bench.folder(name, seed) / "run"
    shutil.rmtree(folder, ignore_errors=True)  # a training that goes on from a checkpoint would seem short
    terms, cost = measured(lambda: fit(head, stream, training, head_config, folder, quiet=True), parts.device)
    shutil.rmtree(folder)
    return Segmenter(parts.backbone, parts.decoder, head, head_config), {**asdict(cost), "terms": terms}


def _stream(bench: Bench, parts: Parts, head: Method, seed: int) -> ExampleStream:
    """The same images in the same order for every method."""
    data = bench.plan.data
    if not isinstance(head, TunedMethod):
        return example_stream(parts, data, bench.out, seed)
    return tuned_stream(parts, data, repr(data), head, seed)


def _talk(ask: Ask, plan: Plan) -> dict[str, Any]:
    """Exact match of generated answers about the scenes of the exam, and one hash of them all."""
    questions = world.read(f"n={plan.exam.n},seed={plan.exam.seed}")
    answers = put(ask, questions, LONGEST)
    hashed = hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest()
    return {**world.score(questions, answers), "said": hashed}


def _times(segmenter: Segmenter) -> dict[str, float]:
    """Of the first question about an image, opening it included, and of the tenth: medians over images, without the
    first image, which warms up."""
    times = list(_timed(segmenter))[1:]
    first, last = (statistics.median(one) for one in zip(*times, strict=True))
    return {"first": first, "tenth": last}


def _timed(segmenter: Segmenter) -> Iterator[tuple[float, float]]:
    for sample in WorldData(1 + TIMED, EXAM_SEED, queries=ASKED):
        start = time.perf_counter()
        opened = segmenter.open(sample.image)
        opened.segment(sample.targets[0].query)
        first = time.perf_counter() - start
        for target in sample.targets[1:-1]:
            opened.segment(target.query)
        start = time.perf_counter()
        opened.segment(sample.targets[-1].query)
        yield 1e3 * first, 1e3 * (time.perf_counter() - start)
