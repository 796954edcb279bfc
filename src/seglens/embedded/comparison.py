"""All methods side by side: one backbone (the embedded InternVL), one data (the drawn world), one protocol and one
budget; and the ablations of SELF1E and MLLMSeg by the same rules."""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from seglens.backbones import hide_loading_bars
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.head import load_adapter
from seglens.checkpoints.origin import Origin
from seglens.core.file_names import slug
from seglens.core.files import write_atomic, write_json
from seglens.core.names import check_name
from seglens.data.world import WorldData
from seglens.embedded.head_stages import example_stream, features
from seglens.embedded.heads import embedded_config, embedded_training
from seglens.embedded.profiling import measured
from seglens.embedded.subprocess_jobs import StageError, keep_report, kept_report, side_by_side
from seglens.embedded.table_report import Finished, Standings
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
DATA_SEED, EXAM_SEED = 6, 21
TIMED, ASKED = 5, 10  # images whose questions are timed, and how many of each
LONGEST = 12  # tokens of an answer in words
BARE, READING = "bare", "reading"  # the MLLM before any training; the features that a frozen method learns from

Ask = Callable[[UInt8[np.ndarray, "h w 3"], str, int], str]


@dataclass(frozen=True)
class ComparisonRow:
    """A method, and what differs from its settings in `embedded_config`."""

    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    warm: bool = False  # start from the adapter of the head that `weights` holds, with all else fresh

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
    """What every row is given, and what it is examined on."""

    steps: int = 200
    images: int = 4  # of a step; none is seen twice
    queries: int = 3  # of an image, for masks
    talk: int = 1  # questions about an image that are answered in words; a method on a frozen MLLM has no use for them
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


@dataclass(frozen=True)
class Bench:
    """Where it all lies: results in `out`, the frozen parts in `weights`."""

    plan: Plan
    out: Path
    weights: Path

    def folder(self, name: str, seed: int = 0) -> Path:
        return self.out / slug(f"{name} seed {seed}", longest=80)

    @cached_property
    def contents(self) -> dict[str, str]:
        """What the weights are."""
        return {part: content(self.weights / part) for part in (MLLM, SAM)}

    def made(self, name: str, seed: int = 0) -> dict[str, Any]:
        """All that a unit's numbers depend on: when any of it changes, the unit is run again."""
        plan = self.plan
        made: dict[str, Any] = {"mllm": self.contents[MLLM], "exam": repr(plan.exam), "longest": LONGEST}
        if name == BARE:
            return made
        if name == READING or METHODS[ROWS[name].method].needs_decoder:
            made["sam"] = self.contents[SAM]
        if name == READING or not METHODS[ROWS[name].method].tuned:
            made["layer"] = LAYER
        if name == READING:
            return {**made, "data": repr(plan.data)}
        if not trained(name):
            return {**made, "heads": asdict(ROWS[name].config()), "known": self.heads, "timed": [TIMED, ASKED]}
        training = embedded_training(ROWS[name].method, plan.steps, plan.images, seed)
        row = {"config": asdict(ROWS[name].config()), "training": asdict(training), "data": repr(plan.data)}
        if ROWS[name].warm:
            row["adapter"] = content(self.weights / ROWS[name].method)
        return {**made, **row, "timed": [TIMED, ASKED]}

    @property
    def heads(self) -> dict[str, Any] | None:
        """The localization heads that the package knows of the MLLM."""
        choice = chosen_heads(None, Origin.of(str(self.weights / MLLM)))
        return None if choice is None else asdict(choice)

    def report(self, name: str, seed: int = 0) -> Any | None:
        return kept_report(self.folder(name, seed), self.made(name, seed))

    def parts(self, method: str | None = None) -> Parts:
        """The frozen parts that a method needs (default all), on the GPU if there is one. On a CPU training is fastest
        with eager attention. The layers that talk are loaded always: what they say is part of the exam."""
        kind = None if method is None else METHODS[method]
        frozen, drawn = kind is None or not kind.tuned, kind is None or kind.needs_decoder
        return Parts.load(
            Origin.of(str(self.weights / MLLM)),
            Origin.of(str(self.weights / SAM)) if drawn else None,
            layer=LAYER if frozen else None,
            segmentation_only=False,
            **_loading(),
        )


def _loading() -> dict[str, Any]:
    """How all models are loaded."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"device": device, "dtype": torch.float32, "attn_implementation": "eager"}


def trained(name: str) -> bool:
    """Whether anything of a row is trained: a row without training has one unit, because no seed changes it."""
    return METHODS[ROWS[name].method].trained


def seeds_of(name: str, seeds: int) -> range:
    return range(seeds if trained(name) else 1)


# ---------------------------------------------------------------- units, each in a process of its own


def run_unit(bench: Bench, name: str, seed: int) -> None:
    """Do it, and leave its report."""
    kinds = {BARE: _bare, READING: _reading}
    report = kinds[name](bench) if name in kinds else _row(bench, name, seed)
    keep_report(bench.folder(name, seed), bench.made(name, seed), report)


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
    made = HeadConfig(row.method, asdict(config), backbone, None if METHODS[row.method].tuned else LAYER, decoder)
    folder = bench.folder(name, seed) / "run"
    shutil.rmtree(folder, ignore_errors=True)  # a training that goes on from a checkpoint would look a short one
    terms, cost = measured(lambda: fit(head, stream, training, made, folder, quiet=True), parts.device)
    shutil.rmtree(folder)
    return Segmenter(parts.backbone, parts.decoder, head, made), {**asdict(cost), "terms": terms}


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
    said = hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest()
    return {**world.score(questions, answers), "said": said}


def _times(segmenter: Segmenter) -> dict[str, float]:
    """Of the first question about an image, opening it included, and of the tenth: medians over images, behind one
    that warms up."""
    found = list(_timed(segmenter))[1:]
    first, last = (statistics.median(times) for times in zip(*found, strict=True))
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


# ---------------------------------------------------------------- the whole


def tabulate(
    out: Path,
    weights: Path | None = None,
    plan: Plan | None = None,
    seeds: int = 3,
    jobs: int = 2,
    only: str | None = None,
    show: bool = False,
) -> Standings:
    """Run every unit that has no report yet, `jobs` side by side, unless `show`; then the tables from what is finished,
    also as `table.md` and `table.json` in `out`.

    Raises ValueError when `only` names no table or the weights are not there, StageError when a unit fails."""
    tables = dict(TABLES)
    if only is not None:
        check_name(only, TABLES, "table")
        tables = {only: TABLES[only]}
    bench = Bench(plan or Plan(), out, weights or Path(str(files("seglens"))) / "weights")
    for part in (MLLM, SAM):
        if not (bench.weights / part).is_dir():
            raise ValueError(f"{bench.weights} has no folder {part!r}; give --weights a folder with {MLLM} and {SAM}")
    rows = list(dict.fromkeys(name for names in tables.values() for name in names))
    if not show:
        _run_all(bench, rows, seeds, jobs)
    standings = _standings(bench, tables, rows, seeds)
    if standings.finished:
        write_atomic(out / "table.md", (standings.markdown() + "\n").encode())
        write_json(out / "table.json", standings.to_dict())
    return standings


def _run_all(bench: Bench, rows: list[str], seeds: int, jobs: int) -> None:
    units = [(BARE, 0)] if any(name in METHODS for name in rows) else []
    frozen = {name for name in rows if trained(name) and not METHODS[ROWS[name].method].tuned}
    units += [(READING, 0)] if frozen else []
    units += [(name, seed) for name in rows for seed in seeds_of(name, seeds)]
    waiting = [unit for unit in units if bench.report(*unit) is None]
    label = "{0[0]}, seed {0[1]}".format
    done = len(units) - len(waiting)

    def command(name: str, seed: int) -> tuple[str, str]:
        given = {"name": name, "seed": seed, "out": str(bench.out), "weights": str(bench.weights)}
        return "seglens.embedded.comparison", json.dumps({**given, "plan": asdict(bench.plan)})

    def tell(name: str, seconds: float) -> None:
        nonlocal done
        done += 1
        print(f"{done} of {len(units)}: {name}, {seconds:.0f} s", file=sys.stderr, flush=True)

    needs = {label(unit): {label((READING, 0))} for unit in waiting if unit[0] in frozen}
    side_by_side({label(unit): command(*unit) for unit in waiting}, jobs, needs, tell)
    lacking = [label(unit) for unit in waiting if bench.report(*unit) is None]
    if lacking:
        raise StageError(f"the weights changed while {lacking[0]} was run; the same command runs it again")


def _standings(bench: Bench, tables: Mapping[str, tuple[str, ...]], rows: list[str], seeds: int) -> Standings:
    found = {name: {seed: bench.report(name, seed) for seed in seeds_of(name, seeds)} for name in rows}
    finished = {name: {s: report for s, report in by.items() if report is not None} for name, by in found.items()}
    return Standings(
        tables=tables,
        seeds=seeds,
        plan=asdict(bench.plan),
        finished={name: Finished(ROWS[name].method, kept) for name, kept in finished.items() if kept},
        bare=bench.report(BARE),
        reading=bench.report(READING),
    )


def work(given: str) -> None:
    """One unit, as `tabulate` asks for it."""
    asked = json.loads(given)
    bench = Bench(Plan(**asked["plan"]), Path(asked["out"]), Path(asked["weights"]))
    run_unit(bench, asked["name"], asked["seed"])


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    hide_loading_bars()
    work(sys.argv[1])
