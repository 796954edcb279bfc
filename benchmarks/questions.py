"""What a question costs: `python benchmarks/questions.py [--size small|7b] [--device cuda]`.

A mask for a question about an image, by LENS and by the flow of a LISA-style model on the same parts (all layers, the
answer written, SAM). `--model embedded` takes the model of the package, or a head folder, instead of random weights.
`--wall` measures by the wall what is otherwise processor time: only so can two encoders that run at a time save any.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import models
import numpy as np
import torch
from lisa import LisaStyle
from measure import Ratio, Report, machine, medians, options

from seglens import Segmenter
from seglens.backbones import hide_loading_bars
from seglens.decoders import load_decoder
from seglens.inference import side_by_side
from seglens.inference.opened_image import OpenedImage
from seglens.world.language import speaker
from seglens.world.world import World

TOGETHER = 8
SIDE = 640  # pixels of a photograph's longer side in COCO


def question_scene() -> tuple[np.ndarray, list[str]]:
    """An image of a photograph's size, and questions about it."""
    world = World("test", 5)
    scene = world.scene(0)
    queries = [query.text for query in speaker(world, 0, scene).queries(TOGETHER)]
    at = np.arange(SIDE) * len(scene.image) // SIDE
    return np.ascontiguousarray(scene.image[at][:, at]), queries


def laps(opened: OpenedImage, query: str, times: int) -> dict[str, float]:
    """Milliseconds, by the wall, of the parts of a question: the least of some, because pauses only add."""
    timings = [opened.segment(query).timing for _ in range(times)]
    return {f"of question n: {lap}": min(one[lap] for one in timings) for lap in ("read", "head", "upsample")}


def in_turn(segmenter: Segmenter, image: np.ndarray, query: str) -> None:
    with patch.object(side_by_side, "room_for_two", return_value=False):
        segmenter.segment(image, query)


def compare(segmenter: Segmenter, size: str, device: str, rounds: int, threads: int, wall: bool) -> Report:
    image, queries = question_scene()
    decoder = segmenter.decoder
    if torch.device(device).type == "cuda":  # LISA's code runs all of itself in bf16
        decoder = load_decoder(decoder.name, dtype=torch.bfloat16)
        decoder.module.to(device)
    lisa = LisaStyle(segmenter.backbone, decoder)
    embedding, opened = lisa.see(image), segmenter.open(image)
    flows = {
        "LISA-style question, as its code runs": lambda: lisa.ask(image, queries[0], lisa.see(image)),
        "... with SAM's embedding of the image kept": lambda: lisa.ask(image, queries[0], embedding),
        "first question: open, read, head, decode": lambda: segmenter.segment(image, queries[0]),
        "question n on the open image": lambda: opened.segment(queries[0]),
        f"question n, {TOGETHER} asked together, each": lambda: opened.segment(queries),
        "of a question: SAM's image encoder": lambda: segmenter.decoder.encode(image, opened.seen.frame),
        "of a LISA-style question: answer written": lambda: lisa.answer(image, queries[0]),
        "first question, the encoders one after the other": lambda: in_turn(segmenter, image, queries[0]),
    }
    spent = {name: 1e3 * duration for name, duration in medians(flows, device, rounds, wall=wall).items()}
    together = f"question n, {TOGETHER} asked together, each"
    spent[together] /= TOGETHER
    inside = laps(opened, queries[0], max(9, rounds))
    whole, embedded, first, later, each = list(spent.values())[:5]
    ratios = [
        Ratio("question n faster than a LISA-style question", whole / later, 25),
        Ratio("... than one with SAM's embedding kept", embedded / later),
        Ratio(f"question n, {TOGETHER} together, faster than a LISA-style question", whole / each, 25),
        Ratio("... than one with SAM's embedding kept", embedded / each),
        Ratio("first question as a share of a LISA-style question", first / whole, 0.6, most=True),
        Ratio(
            "... with the encoders one after the other",
            spent["first question, the encoders one after the other"] / whole,
        ),
    ]
    where = machine(device, threads)
    return Report("time of a question", size, "ms", spent | inside, ratios, machine=where)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--model", help="a head folder, or embedded, instead of random weights")
    parser.add_argument("--wall", action="store_true", help="measure by the wall also on one thread")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(settings.threads)
    how = settings.device, settings.rounds, settings.threads, settings.wall
    if settings.model:
        hide_loading_bars()
        segmenter = Segmenter.from_pretrained(settings.model, device=settings.device)
        compare(segmenter, settings.model, *how).show(settings.json)
        return
    size = models.SIZES[settings.size]
    with TemporaryDirectory() as folder:
        models.save(size, Path(folder), settings.device)
        parts = models.load(size, Path(folder), settings.device)
        compare(models.segmenter(size, parts), settings.size, *how).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
