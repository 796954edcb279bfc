"""The process with the model that `threads.py` measures. It imports PyTorch only after its threads are chosen."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from seglens.core.cpu_threads import prepare_threads


def work(how: str, size: str, folder: str, images: int) -> None:
    """For each line of input, the milliseconds of each image in a line of output."""
    if how == "chosen":
        prepare_threads()
    from seglens.data.world import WorldData

    segmenter = load(how, size, folder)
    samples = list(WorldData(n=images, seed=1))
    for _ in sys.stdin:
        spent = list[float]()
        for sample in samples:
            began = perf_counter()
            segmenter.segment(sample.image, sample.targets[0].query)
            spent.append(1e3 * (perf_counter() - began))
        print(*spent, flush=True)


def load(how: str, size: str, folder: str) -> Any:
    from seglens.cli.loading import choose_threads, load_segmenter
    from seglens.cli.options import SegmenterOptions
    from seglens.inference.segmenter import Segmenter

    if size == "small":
        import models

        segmenter = models.segmenter(models.SIZES[size], models.load(models.SIZES[size], Path(folder), "cpu"))
        if how == "chosen":
            choose_threads(segmenter.backbone, segmenter.decoder.module, segmenter.method)
        return segmenter
    return (
        load_segmenter(SegmenterOptions(device="cpu")) if how == "chosen" else Segmenter.from_pretrained(device="cpu")
    )
