"""What is lost when features are cached in 8 bits: `python benchmarks/quantised_cache.py`. Points of gIoU.

On the embedded model and scenes of the drawn world that its training never saw. The head of the package draws masks
from features that went through an int8 cache and through a bf16 one; then two fresh heads, alike in all else, learn
from either. Masks are compared on the mask decoder's canvas, before absence is judged, with paired 95 % intervals over
images. A third head, which differs from the first in its seed alone, shows what chance does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float
from measure import Ratio, Report, machine, options
from torch import Tensor

from seglens import Segmenter
from seglens.backbones import hide_loading_bars
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.origin import Origin
from seglens.core.metrics import bootstrap, iou, overlap
from seglens.data.world import WorldData
from seglens.embedded.head_stages import HEAD_TRAINING, LAYER
from seglens.embedded.heads import lens_config
from seglens.features.cache import Cache, Stored
from seglens.features.examples import collate
from seglens.inference.frozen_models import Parts
from seglens.methods import Lens, build_lens
from seglens.training.example_stream import epochs_of
from seglens.training.trainer import fit

AIM = 0.3  # points


@dataclass(frozen=True)
class Length:
    """Scenes to learn from, steps, scenes of the exam."""

    lessons: int
    steps: int
    exam: int


LENGTHS = {"small": Length(200, 150, 100), "tiny": Length(4, 2, 3), "7b": Length(2000, 1000, 500)}


@torch.no_grad()
def scores(head: Lens, source: Cache) -> Float[Tensor, "n 2"]:
    """The IoU of every query with a target, and the number of its image."""
    head.eval()
    rows = []
    for image in range(len(source)):
        batch = collate([source.example(image, tuple(range(source.questions(image))))], head.cls.device)
        judged = batch.truth.present & batch.truth.valid
        masks = head(batch.inputs, batch.embedding).mask_logits[judged] > 0
        ious = iou(overlap(masks, batch.truth.masks[judged] > 0.5)).cpu()
        rows.append(torch.stack([ious, torch.full_like(ious, image)], 1))
    return torch.cat(rows)


def lost(exact: Tensor, other: Tensor) -> tuple[float, float, float]:
    """Points of gIoU by which `other` is worse, with its interval."""
    both = torch.stack([exact[:, 0], other[:, 0], torch.ones(len(exact))], 1)
    low, high = bootstrap(both, lambda t: 100 * (t[:, 0] - t[:, 1]) / t[:, 2], exact[:, 1].long())
    return 100 * float((exact[:, 0] - other[:, 0]).mean()), low, high


def trained(parts: Parts, source: Cache, steps: int, out: Path, seed: int = 0) -> Lens:
    """A new head after `steps` steps on a cache."""
    torch.manual_seed(seed)
    config = lens_config()
    head = build_lens(config, parts.backbone, parts.decoder).to(parts.decoder.device)
    origins = (Origin(str(part.name)) for part in (parts.backbone, parts.decoder))
    backbone, decoder = origins
    head_config = HeadConfig("lens", asdict(config), backbone, LAYER, decoder)
    training = replace(HEAD_TRAINING, steps=steps, warmup=min(100, steps // 3), save_every=steps, trackers=())
    fit(head, epochs_of(source, seed), replace(training, seed=seed), head_config, out, quiet=True)
    return head


def compare(size: str, device: str, threads: int, folder: Path) -> Report:
    hide_loading_bars()
    length, weights = LENGTHS[size], Path(str(files("seglens") / "weights"))
    parts = Parts.load(*(Origin(str(weights / name)) for name in ("mllm", "sam")), layer=LAYER, device=device)
    shipped = Segmenter.from_pretrained(device=device).method
    lessons = WorldData(n=length.lessons, seed=16, split="train", queries=8)
    exam = WorldData(n=length.exam, seed=31)

    def cached(data: WorldData, name: str, dtype: Stored) -> Cache:
        return parts.cached(data, name, folder / f"{name}-{dtype}", dtype)

    exams = {dtype: cached(exam, "exam", dtype) for dtype in ("auto", "bf16", "int8")}
    shipped_scores = {dtype: scores(shipped, source) for dtype, source in exams.items()}
    rows = {f"the package's head, {dtype} features": score for dtype, score in shipped_scores.items()}
    bf16, int8 = (cached(lessons, "lessons", dtype) for dtype in ("bf16", "int8"))
    runs = {"bf16": (bf16, 0), "int8": (int8, 0), "bf16, another seed": (bf16, 1)}
    heads = {
        name: scores(trained(parts, source, length.steps, folder / f"run-{name}", seed), exams["auto"])
        for name, (source, seed) in runs.items()
    }
    rows |= {f"a head trained {length.steps} steps, {name}": score for name, score in heads.items()}
    averages = {name: 100 * float(score[:, 0].mean()) for name, score in rows.items()}
    pairs = {
        "points of gIoU lost by int8 against bf16, the package's head": lost(
            shipped_scores["bf16"], shipped_scores["int8"]
        ),
        "points of gIoU lost by learning from int8 instead of bf16": lost(heads["bf16"], heads["int8"]),
        "points of gIoU lost by another seed": lost(heads["bf16"], heads["bf16, another seed"]),
        "points of gIoU lost by bf16 against full precision, the package's head": lost(
            shipped_scores["auto"], shipped_scores["bf16"]
        ),
    }
    ratios = [Ratio(name, value, AIM if "int8" in name else None, most=True) for name, (value, _, _) in pairs.items()]
    notes = [f"{name}: {value:.2f} ({low:.2f} to {high:.2f})" for name, (value, low, high) in pairs.items()]
    stored = {
        f: sum(p.stat().st_size for p in (folder / f"lessons-{f}").glob("*.safetensors")) for f in ("bf16", "int8")
    }
    notes.append(
        f"{len(shipped_scores['bf16'])} queries with a target on {length.exam} scenes; {length.lessons} to learn from"
    )
    notes.append(f"size of the int8 cache as a share of the bf16 one: {stored['int8'] / stored['bf16']:.3f}")
    where = machine(device, threads)
    return Report("masks from features in 8 bits", size, "gIoU, %", averages, ratios, notes, where)


def main(arguments: Sequence[str] | None = None) -> None:
    settings = options(__doc__ or "").parse_args(arguments)
    torch.set_num_threads(settings.threads)
    with TemporaryDirectory() as folder:
        compare(settings.size, settings.device, settings.threads, Path(folder)).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
