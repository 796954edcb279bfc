"""What masks without a trained head cost, beside LENS: `python benchmarks/untrained.py [--size 7b] [--device cuda]`.

Both read the same layers of one MLLM with random weights, and draw with the same SAM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import models
import torch
from measure import Ratio, Report, machine, medians, options
from questions import TOGETHER, question_scene

from seglens import Segmenter
from seglens.methods import LocalizationConfig, build_method


def untrained(lens: Segmenter) -> Segmenter:
    """The parts of a LENS with nothing trained between them; each query chooses its heads, in all layers that LENS
    loads."""
    settings = LocalizationConfig()
    method = build_method(settings, lens.backbone, lens.decoder)
    return Segmenter(lens.backbone, lens.decoder, method, replace(lens.config, method="localization"))


def compare(lens: Segmenter, size: str, device: str, rounds: int, threads: int) -> Report:
    image, queries = question_scene()
    both = {"LENS": lens, "without a trained head": untrained(lens)}
    opened = {name: one.open(image) for name, one in both.items()}
    flows = {}
    for name, one in both.items():
        flows[f"first question, {name}"] = lambda one=one: one.segment(image, queries[0])
        flows[f"question n, {name}"] = lambda name=name: opened[name].segment(queries[0])
        flows[f"question n, {TOGETHER} asked together, each, {name}"] = lambda name=name: opened[name].segment(queries)
    spent = {name: 1e3 * duration for name, duration in medians(flows, device, rounds).items()}
    for name in both:
        spent[f"question n, {TOGETHER} asked together, each, {name}"] /= TOGETHER
    lens, bare = (list(spent.values())[:3], list(spent.values())[3:])
    kinds = ("first question", "question n", f"question n, {TOGETHER} asked together")
    ratios = [
        Ratio(f"{kind}: without a trained head, over LENS", ours / theirs)
        for kind, ours, theirs in zip(kinds, bare, lens, strict=True)
    ]
    return Report("time of a question", size, "ms", spent, ratios, machine=machine(device, threads))


def main(arguments: Sequence[str] | None = None) -> None:
    settings = options(__doc__ or "").parse_args(arguments)
    torch.set_num_threads(settings.threads)
    size = models.SIZES[settings.size]
    with TemporaryDirectory() as folder:
        models.save(size, Path(folder), settings.device)
        segmenter = models.segmenter(size, models.load(size, Path(folder), settings.device))
        compare(segmenter, settings.size, settings.device, settings.rounds, settings.threads).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
