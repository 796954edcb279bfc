"""What a question costs: `python benchmarks/questions.py [MODEL]`. Prints ratios of one run on this machine.

Three ways to a mask for the same question about the same image, medians over 30 runs after 3 to warm up:
the whole MLLM for every question, the layers that LENS reads for every question, and an image that stays open.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from seglens import Segmenter
from seglens.miniature.language import speaker
from seglens.miniature.world import World

RUNS, WARM_UP, TOGETHER = 30, 3, 8


def milliseconds(work: Callable[[], object]) -> float:
    """Median time of `work`."""
    spent = []
    for number in range(WARM_UP + RUNS):
        began = time.perf_counter()
        work()
        if number >= WARM_UP:
            spent.append(1e3 * (time.perf_counter() - began))
    return statistics.median(spent)


@torch.no_grad()
def main(model: str = "embedded") -> None:
    segmenter = Segmenter.from_pretrained(model)
    world = World("test", 5)
    scene = world.scene(0)
    queries = [query.text for query in speaker(world, 0, scene).queries(TOGETHER)]
    inputs = segmenter.backbone.chat_inputs(scene.image, queries[0])
    opened = segmenter.open(scene.image)
    first = milliseconds(lambda: segmenter.segment(scene.image, queries[0]))
    layers = milliseconds(lambda: segmenter.backbone.read(segmenter.backbone.open(scene.image), queries[:1]))
    everything = milliseconds(lambda: segmenter.backbone.module(**inputs))
    later = milliseconds(lambda: opened.segment(queries[0]))
    batch = milliseconds(lambda: opened.segment(queries)) / TOGETHER
    print(f"{'whole MLLM forward, without head and SAM':<44}{everything:8.1f} ms")
    print(f"{'... only the layers that are read':<44}{layers:8.1f} ms  {everything / layers:5.1f} times faster")
    print(f"{'first question: open, read, head, decode':<44}{first:8.1f} ms")
    print(f"{'later question on the open image':<44}{later:8.1f} ms  {first / later:5.1f} times faster")
    print(f"{f'... asked {TOGETHER} at a time, per question':<44}{batch:8.1f} ms  {first / batch:5.1f} times faster")


if __name__ == "__main__":
    main(*sys.argv[1:])
