"""Many images: `python benchmarks/batch.py [--images 48] [--folder 400]`, with the embedded model.

Images of the drawn world with a question each: one after the other, in batches, and in batches by two processes at a
time. Then a whole folder, from files to files, and how much its memory grows after image 200. Times are processor time:
the two processes share nothing, so on two free cores their images come as many times faster.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import torch
from measure import Ratio, Report, machine, medians, options
from PIL import Image

from seglens import Segmenter
from seglens.backbones import hide_loading_bars
from seglens.data.world import WorldData
from seglens.exports import Command, Export
from seglens.exports.batch import BatchRun
from seglens.inference.image_batches import batch_size
from seglens.inference.image_sources import Sources

QUERY = "the largest thing"
SETTLED = 200  # images after which memory may no longer grow


def load() -> Segmenter:
    hide_loading_bars()
    torch.set_num_threads(1)
    return Segmenter.from_pretrained(device="cpu", segmentation_only=True)


def images_of(count: int) -> list:
    return [sample.image for sample in WorldData(n=count, seed=1, queries=1)]


def in_a_process(count: int) -> float:
    """Processor seconds of an image in batches, in this process."""
    segmenter, images = load(), images_of(count)
    segmenter.segment(images, QUERY)
    began = process_time()
    segmenter.segment(images, QUERY)
    return (process_time() - began) / count


def two_processes(count: int) -> float:
    """Images per processor second of two processes that compute at the same time, together."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return sum(1 / each for each in pool.map(in_a_process, [count, count]))


def folder_run(segmenter: Segmenter, folder: Path, out: Path, most: int | None) -> BatchRun:
    sources = Sources.of([str(folder)])
    command = Command([QUERY], root=str(sources.root))
    export = Export(out, command=command, sources=sources.paths)
    return BatchRun(sources, command, export, lambda: segmenter, trust=True, most=most)


def finish(run: BatchRun, at: Callable[[int], None] = lambda number: None) -> None:
    run.plan()
    with run.export:
        for number, _ in enumerate(run, 1):
            at(number)


def memory(segmenter: Segmenter, folder: Path, out: Path) -> dict[int, float]:
    """The largest memory of this process so far, in MB, at image `SETTLED` and at the last one."""
    peaks = dict[int, float]()

    def note(number: int) -> None:
        peaks[SETTLED if number <= SETTLED else number] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    finish(folder_run(segmenter, folder, out, None), note)
    return {number: peaks[number] for number in (min(peaks), max(peaks))}


def pictures(folder: Path, images: Sequence, count: int) -> None:
    """Files that share the bytes of a few."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:05d}.png"
        if number < len(images):
            Image.fromarray(images[number]).save(path)
        else:
            path.symlink_to(folder / f"{number % len(images):05d}.png")


def compare(size: str, rounds: int, count: int, many: int) -> Report:
    segmenter, images = load(), images_of(count)
    flows = {
        "one after the other": lambda: [segmenter.segment(image, QUERY) for image in images],
        "in batches": lambda: segmenter.segment(images, QUERY),
    }
    with TemporaryDirectory() as place:
        root, number = Path(place), iter(range(10**6))
        pictures(root / "few", images, count)
        runs = {"a folder, one after the other": 1, "a folder, in batches": None}
        flows |= {
            name: lambda most=most: finish(folder_run(segmenter, root / "few", root / str(next(number)), most))
            for name, most in runs.items()
        }
        spent = {name: 1e3 * seconds / count for name, seconds in medians(flows, "cpu", rounds).items()}
        pictures(root / "many", images, many)
        peaks = memory(segmenter, root / "many", root / "out")
    single, batched, folder, folder_batched = spent.values()
    together = two_processes(count)
    spent["in batches, two processes at a time, each"] = 2e3 / together
    first, last = peaks.values() if len(peaks) > 1 else [*peaks.values()] * 2
    ratios = [
        Ratio("images in batches faster than one after the other", single / batched, 1.5),
        Ratio("... by two processes", together * single / 1e3, 2.7),
        Ratio("a folder in batches faster than one after the other", folder / folder_batched),
        Ratio(f"peak memory of {many} images to that of the first {min(SETTLED, many)}", last / first, 1.02, most=True),
    ]
    notes = [f"a batch has {batch_size(segmenter)} images; peak memory {first:.0f} MB, then {last:.0f} MB"]
    return Report("many images", size, "ms", spent, ratios, notes, machine("cpu", 1))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__ or "", ("embedded", "tiny"), rounds=3)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--folder", type=int, default=400, help="images of the folder whose memory is measured")
    settings = parser.parse_args(arguments)
    compare(settings.size, settings.rounds, settings.images, settings.folder).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
