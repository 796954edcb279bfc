"""Table 2 of LENS with the embedded models: the effect of each part of the method, with the same data and the same
budget for every row."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.origin import Origin
from seglens.core.file_names import slug
from seglens.data.world import WorldData
from seglens.embedded.head_stages import HEAD_TRAINING, LAYER, example_stream, features, frozen_parts
from seglens.embedded.heads import lens_config
from seglens.embedded.subprocess_jobs import keep_report, kept_report, side_by_side
from seglens.evaluation.evaluate import run
from seglens.evaluation.summary import summarise
from seglens.features.cache.fingerprint import content
from seglens.inference.frozen_models import Parts
from seglens.inference.segmenter import Segmenter
from seglens.methods import LensConfig, build_lens
from seglens.training.presets import recipe
from seglens.training.trainer import fit

DATA = WorldData(n=2000, seed=6, split="train", queries=8)
EXAM = WorldData(n=200, seed=21)


@dataclass(frozen=True)
class AblationRow:
    """One row: the settings that differ from the default in training, and those that differ only at the test."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str = "default"
    layer: int = LAYER
    seed: int = 0
    at_test: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # further tests of the same head

    def config(self) -> LensConfig:
        """The settings that the row trains with."""
        return replace(lens_config(self.preset), **self.settings)

    def parts(self, weights: Path) -> Parts:
        """The frozen parts of the row."""
        named = recipe(self.preset)
        return frozen_parts(weights, self.layer, canvas=named.canvas, floors=self.config().floors)


ROWS: dict[str, AblationRow] = {
    "default": AblationRow(
        at_test={
            "keypoints removed at test": {"local_descriptions": False},
            "global removed at test": {"global_description": False},
        }
    ),
    "default, another seed": AblationRow(seed=1),
    "paper": AblationRow(preset="paper", settings={"presence_weight": 0.5}),
    "authors": AblationRow(preset="authors", settings={"presence_weight": 0.5}),
    "layer 1 of 6": AblationRow(layer=1),
    "layer 3 of 6": AblationRow(layer=3),
    "without keypoint description": AblationRow({"local_descriptions": False}),
    "without keypoint description, mask decoder frozen": AblationRow(
        {"local_descriptions": False, "train_mask_decoder": False}
    ),
    "without global description": AblationRow({"global_description": False}),
    "without L_attn": AblationRow({"attention_weight": 0.0}),
    "mask decoder frozen": AblationRow({"train_mask_decoder": False}),
    "no keypoint threshold": AblationRow({"threshold": 0.0}),
    "attention of all question tokens (Eq. 1)": AblationRow({"aggregate": "mean"}),
    "L_attn on the map divided by its peak": AblationRow({"map_scale": "peak"}),
    "L_attn weighted 1 (Eq. 7)": AblationRow({"attention_weight": 1.0}),
}


def run_row(name: str, out: Path, weights: Path, steps: int) -> None:
    """Train and test one row; its results go to `out`."""
    row = ROWS[name]
    parts, config = row.parts(weights), row.config()
    torch.manual_seed(row.seed)
    head = build_lens(config, parts.backbone, parts.sam()).to(parts.device)
    training = replace(HEAD_TRAINING, steps=steps, save_every=steps, seed=row.seed)
    origins = Origin(str(weights / "mllm")), row.layer, Origin(str(weights / "sam"))
    head_config = HeadConfig("lens", asdict(config), *origins, canvas=parts.backbone.canvas)
    fit(head, example_stream(parts, DATA, out, row.seed), training, head_config, _folder(out, name) / "run", quiet=True)
    reports = {}
    for label, off in {name: {}, **row.at_test}.items():
        head.config = replace(config, **off)
        reports[label] = summarise(run(Segmenter(parts.backbone, parts.decoder, head, head_config), EXAM))
    keep_report(_folder(out, name), _depends_on(name, weights, steps), reports)


def _depends_on(name: str, weights: Path, steps: int) -> dict[str, Any]:
    """Everything that a row's numbers depend on: when any of it changes, the row is run again."""
    row = ROWS[name]
    parts = {part: content(weights / part) for part in ("mllm", "sam")}
    values = {
        "config": asdict(row.config()),
        "canvas": asdict(recipe(row.preset).canvas),
        "layer": row.layer,
        "at_test": list(row.at_test),
        "steps": steps,
        "weights": parts,
    }
    return {**values, "data": repr(DATA), "exam": repr(EXAM)}


def ablate(out: Path, weights: Path | None, steps: int, jobs: int = 2) -> str:
    """Run every row that has no report yet, `jobs` side by side, and return the table in Markdown."""
    weights = Path(str(files("seglens") / "weights")) if weights is None else weights
    waiting = [name for name in ROWS if _reports(out, name, weights, steps) is None]
    for one in {(ROWS[n].layer, ROWS[n].preset == "authors"): ROWS[n] for n in waiting}.values():
        features(one.parts(weights), DATA, out)
    module = "seglens.embedded.ablations"
    side_by_side({name: (module, name, str(out), str(weights), str(steps)) for name in waiting}, jobs)
    return _table(out, weights, steps)


def _folder(out: Path, name: str) -> Path:
    return out / slug(name, longest=80)


def _reports(out: Path, name: str, weights: Path, steps: int) -> dict[str, Any] | None:
    """The finished reports of a row by label, or None when there are none for its present settings."""
    return kept_report(_folder(out, name), _depends_on(name, weights, steps))


def _table(out: Path, weights: Path, steps: int) -> str:
    head = "| row | gIoU | 95 % | cIoU | name | reasoning | part | plural | small | strongest inside | inside |"
    lines = [
        f"{steps} steps a row on {DATA.n} training scenes; {EXAM.n} test scenes of seed {EXAM.seed}.",
        "",
        head,
        "|" + "---|" * 11,
    ]
    for name in ROWS:
        for label, report in (_reports(out, name, weights, steps) or {}).items():
            lines.append(f"| {label} | {' | '.join(_cells(report))} |")
    return "\n".join(lines)


def _cells(report: Mapping[str, Any]) -> list[str]:
    whole, kinds, points = report["with_target"], report["by_kind"], report["keypoints"]
    low, high = whole["gIoU_95"]
    rows = [kinds[kind] for kind in ("name", "reasoning", "part", "plural")] + [report["by_size"]["small"]]
    cells = [f"{whole['gIoU']:.3f}", f"{low:.3f}–{high:.3f}", f"{whole['cIoU']:.3f}"]
    cells += [f"{row['gIoU']:.3f}" for row in rows]
    return [*cells, *("–" if v is None else f"{v:.3f}" for v in (points["strongest_inside"], points["inside"]))]


if __name__ == "__main__":
    _, name, out, weights, steps, threads = sys.argv
    torch.set_num_threads(int(threads))
    run_row(name, Path(out), Path(weights), int(steps))
