"""Many clicks and many queries on a large picture: `python benchmarks/large.py [--size 24mp|64mp|tiny] [--json]`.

Measured is one call of `OpenedImage.refine` with n clicks, random places and labels, one of `OpenedImage.segment` with
n queries, and one of an agent's tool with as many queries as it takes, whose answer is written as run lengths, one mask
after the other. The picture is open already, the model the embedded one. Told are seconds (on one thread of a CPU those
that the process computed, because the machine is shared; else of the wall), the median of the rounds, and what memory
the process took at its peak beyond what it held before, the result included, the highest of the rounds. Opening the
picture is not in it, nor, but for the tool, writing an answer."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
from measure import Ratio, Report, machine, options

from seglens.core.schema import Click
from seglens.embedded.profiling import measured
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter
from seglens.serving.limits import Limits
from seglens.serving.tools.tool_images import ImageReader
from seglens.serving.tools.tool_service import MAX_QUERIES, ToolService

SIZES = {"24mp": (4000, 6000), "64mp": (8000, 8000), "tiny": (120, 180)}  # height and width
CLICKS, QUERIES = 100, 16
SECONDS, BYTES = 2.0, 1e9  # aims
THINGS = ("cat", "cup", "tree", "house", "car", "apple", "boat", "hat", "fish", "key", "star", "bed", "duck", "drum")


def opened(size: str, device: str) -> OpenedImage:
    """A picture of coloured patches."""
    height, width = SIZES[size]
    patches = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    image = patches[np.arange(height)[:, None] * 8 // height, np.arange(width) * 12 // width]
    return Segmenter.from_pretrained(device=device).open(image)


def clicks(height: int, width: int) -> list[Click]:
    rng = random.Random(0)
    return [
        Click(x=rng.uniform(0, width - 1), y=rng.uniform(0, height - 1), label=rng.randint(0, 1)) for _ in range(CLICKS)
    ]


def queries(count: int) -> list[str]:
    sizes = ("large", "small", "largest")
    return [f"the {sizes[k // len(THINGS)]} {THINGS[k % len(THINGS)]}" for k in range(count)]


def spent(work: Callable[[], object], device: torch.device, rounds: int) -> tuple[float, float]:
    """Seconds and bytes."""
    costs = [measured(work, device)[1] for _ in range(rounds)]
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return statistics.median(cost.processor if alone else cost.seconds for cost in costs), float(
        max(cost.peak or 0 for cost in costs)
    )


def compare(size: str, device: str, threads: int, rounds: int) -> Report:
    image = opened(size, device)
    cat, many, texts = image.segment("the large cat", trust=True), clicks(*image.image.shape[:2]), queries(QUERIES)
    service = ToolService(image.segmenter, ImageReader(Limits()))
    name = service.images.add(image.image)
    ways: dict[str, Callable[[], object]] = {
        "1 click": lambda: image.refine(cat, many[:1]),
        f"{CLICKS} clicks": lambda: image.refine(cat, many),
        "1 query": lambda: image.segment(texts[:1], trust=True),
        f"{QUERIES} queries": lambda: image.segment(texts, trust=True),
        f"{MAX_QUERIES} queries to a tool": lambda: service.segment(name, queries(MAX_QUERIES), trust=True),
    }
    ways["1 click"]()  # code is loaded when it is first used
    costs = {name: spent(work, torch.device(device), rounds) for name, work in ways.items()}
    rows = {f"{name}: seconds": cost[0] for name, cost in costs.items()}
    rows |= {f"{name}: MB": cost[1] / 1e6 for name, cost in costs.items()}
    click, crowd, query, several, tool = costs.values()
    ratios = [
        Ratio(f"seconds of {CLICKS} clicks", crowd[0], SECONDS, most=True),
        Ratio(f"GB of {CLICKS} clicks", crowd[1] / 1e9, BYTES / 1e9, most=True),
        Ratio(f"... seconds, of those of 1 click, with {CLICKS} times as many", crowd[0] / click[0]),
        Ratio(f"GB of {QUERIES} queries", several[1] / 1e9, BYTES / 1e9, most=True),
        Ratio(f"... seconds, of those of 1 query, with {QUERIES} times as many", several[0] / query[0]),
        Ratio(f"GB of {MAX_QUERIES} queries to a tool", tool[1] / 1e9, BYTES / 1e9, most=True),
    ]
    height, width = SIZES[size]
    notes = [f"{width} x {height} pixels; a mask of them is {height * width / 1e6:.0f} MB"]
    return Report(
        "many clicks and queries on one open picture", size, "", rows, ratios, notes, machine(device, threads)
    )


def main(argv: Sequence[str] | None = None) -> None:
    settings = options("Many clicks and queries on a large picture.", tuple(SIZES), rounds=3).parse_args(argv)
    torch.set_num_threads(settings.threads)
    compare(settings.size, settings.device, settings.threads, settings.rounds).show(settings.json)


if __name__ == "__main__":
    main()
