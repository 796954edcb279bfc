"""How fast a head trains: `python benchmarks/training.py [--size small|7b] [--device cuda]`. Questions per second.

The same optimiser step (collate, forward under autocast, losses, backward, clipping, AdamW) on features from a cache on
disk, on features read live (image once, no layer above the one that is read), and on features as the authors of LENS
compute them: all layers of the MLLM for every question with all hidden states kept, SAM for every image.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import models
import torch
from measure import Ratio, Report, machine, medians, options
from PIL import Image

from seglens.core.geometry import Frame
from seglens.core.types import Embedding, Sample
from seglens.data.world import WorldData
from seglens.features.examples import ExampleSource, collate
from seglens.features.frozen import Features
from seglens.inference.frozen_models import Parts
from seglens.methods import Lens
from seglens.training.config import TrainConfig

IMAGES, QUESTIONS = 2, 3  # of a step, as in LENS's and LISA's training: 2 images a GPU, 3 questions each
KEPT = 8  # images in the cache


@dataclass(frozen=True)
class Kept:
    """Samples in memory: neither drawing nor decoding images is measured."""

    samples: tuple[Sample, ...]
    trainable: bool = True

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class Step:
    """One optimiser step, as `fit` takes it on a single device."""

    def __init__(self, head: Lens, device: str, config: TrainConfig):
        self.head, self.device, self.config = head.train(), device, config
        self.trained = [p for p in head.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )

    def __call__(self, features: Sequence[Features]) -> None:
        batch = collate(features, self.device)
        local = self.head.random_inputs(batch.truth.valid.shape, torch.Generator().manual_seed(0))["local"].to(
            self.device
        )
        with autocast(self.device, self.config):
            output = self.head(batch.inputs, batch.embedding, local=local)
        sum(self.head.losses(output, batch.truth).values(), torch.zeros((), device=self.device)).backward()
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained, self.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()


def autocast(device: str, config: TrainConfig) -> AbstractContextManager[object]:
    """As `fit` has it on a GPU. On a CPU the MLLM computes in fp32, and so must what it is compared with."""
    cuda = torch.device(device).type == "cuda"
    return torch.autocast("cuda", torch.bfloat16, enabled=config.mixed_precision == "bf16") if cuda else nullcontext()


class Turns:
    """Features of the next images of a source at each call."""

    def __init__(self, source: ExampleSource):
        self.source, self.at = source, 0

    def __call__(self) -> list[Features]:
        self.at += IMAGES
        chosen = [(self.at + i) % len(self.source) for i in range(IMAGES)]
        return [self.source.example(i, tuple(range(self.source.questions(i)))) for i in chosen]


class WholeModel:
    """Features as the authors of LENS compute them at every step: each question with its image through all layers."""

    def __init__(self, parts: Parts, data: Kept, source: ExampleSource):
        self.parts, self.data, self.source, self.at = parts, data, source, 0
        self.known = [source.example(i, tuple(range(QUESTIONS))) for i in range(len(data))]  # for the truth

    @torch.no_grad()
    def __call__(self) -> list[Features]:
        self.at += IMAGES
        chosen = [(self.at + i) % len(self.data) for i in range(IMAGES)]
        pairs = [(self.data[i].image, target.query) for i in chosen for target in self.data[i].targets]
        backbone = self.parts.backbone
        inputs = backbone.processor(
            images=[Image.fromarray(image) for image, _ in pairs],
            padding=True,
            return_tensors="pt",
            text=[prompt(question) for _, question in pairs],
        )
        inputs = inputs.to(backbone.device, backbone.module.dtype)
        hidden = backbone.module(**inputs, output_hidden_states=True).hidden_states[backbone.layer]
        return [self._features(i, hidden[n * QUESTIONS : (n + 1) * QUESTIONS]) for n, i in enumerate(chosen)]

    def _features(self, image: int, hidden: torch.Tensor) -> Features:
        """Rows of padded sequences ("q n d", padding first) and a fresh embedding in place of those that are known."""
        known, sample = self.known[image], self.data[image]
        rows = [hidden[q, -len(one.rows) :] for q, one in enumerate(known.questions)]
        before, after = len(known.prefix), len(known.questions[0].rows)
        prefix = hidden[0, -before - after : -after]
        embedding: Embedding = self.parts.decoder.encode(sample.image, Frame(*sample.image.shape[:2]))
        questions = tuple(replace(one, rows=row) for one, row in zip(known.questions, rows, strict=True))
        return replace(known, prefix=prefix, embedding=embedding, questions=questions)


def prompt(question: str) -> str:
    return f"USER: <image>\n{question} ASSISTANT:"


def compare(parts: Parts, head: Lens, size: str, device: str, rounds: int, threads: int, folder: Path) -> Report:
    world = WorldData(n=KEPT, seed=3, split="train", queries=QUESTIONS)
    data = Kept(tuple(world))
    cache = parts.cached(data, "world", folder)
    step = Step(head, device, TrainConfig())
    cached, live = Turns(cache), Turns(parts.live(data, "world"))
    whole = WholeModel(parts, data, cache)
    known = cached()
    flows = {
        "whole MLLM and SAM at every step": lambda: step(whole()),
        "live, with early exit and the image seen once": lambda: step(live()),
        "from the cache": lambda: step(cached()),
        "of a step: reading the cache": cached,
        "of a step: all but reading": lambda: step(known),
    }
    spent = medians(flows, device, rounds)
    rates = {name: IMAGES * QUESTIONS / duration for name, duration in list(spent.items())[:3]}
    all_, exit_, from_cache = rates.values()
    ratios = [
        Ratio("training from the cache faster than with the whole MLLM", from_cache / all_, 8),
        Ratio("live faster than with the whole MLLM", exit_ / all_),
    ]
    notes = [f"{name}: {1e3 * duration:.1f} ms" for name, duration in spent.items()]
    notes.append(f"a step: {IMAGES} images, {QUESTIONS} questions each; the cache lies in the page cache")
    what = "questions trained on per second"
    return Report(what, size, "per second", rates, ratios, notes, machine(device, threads))


def main(arguments: Sequence[str] | None = None) -> None:
    settings = options(__doc__ or "", rounds=3).parse_args(arguments)
    torch.set_num_threads(settings.threads)
    size = models.SIZES[settings.size]
    with TemporaryDirectory() as name:
        folder = Path(name)
        models.save(size, folder, settings.device)
        parts = models.load(size, folder, settings.device)
        head = models.head(size, parts)
        how = settings.size, settings.device, settings.rounds, settings.threads
        compare(parts, head, *how, folder / "cache").show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
