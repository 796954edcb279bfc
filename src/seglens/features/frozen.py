"""What the frozen parts say of a dataset: the one form in which methods are trained, computed now or read from disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seglens.backbones import Backbone
from seglens.core.geometry import Frame, floor_targets
from seglens.core.tuning_types import TunedInputs
from seglens.core.types import Embedding, Readout, Sample, Target, Totals, Truth
from seglens.data import Dataset
from seglens.data.dataset import usable
from seglens.decoders import MaskDecoder

FULL = 255  # a cell of a stored area that is wholly covered


@dataclass(frozen=True)
class QuestionFeatures:
    """One question about an image: its own rows at the read layer, and the truth as covered area (255 is all)."""

    rows: Float[Tensor, "t d"]
    positions: Int[Tensor, "t ..."]
    mask: UInt8[Tensor, "s s"]  # on the mask decoder's canvas
    cells: UInt8[Tensor, "h w"]  # on the backbone's grid, or floored on another (`extract`)
    present: bool


@runtime_checkable
class TrainingExample(Protocol):
    """One image with some questions about it, as a method learns from it: `Features` of frozen parts, or an `Exercise`
    for a method that tunes its MLLM."""

    def tally(self) -> Totals:
        """How many masks, questions and answers it has."""

    @staticmethod
    def batch(found: Sequence[Any], device: torch.device | str = "cpu") -> Batch:
        """Several of them on the device of the method."""


@dataclass(frozen=True)
class Features:
    """What the frozen parts say of one image and of some questions about it, in the precision they said it."""

    prefix: Float[Tensor, "p d"]
    prefix_positions: Int[Tensor, "p ..."]
    image_tokens: Int[Tensor, " i"]
    grid: tuple[int, int]
    embedding: Embedding  # of a single image: b is 1
    asked: tuple[QuestionFeatures, ...]

    def tally(self) -> Totals:
        return Totals(sum(a.present for a in self.asked), len(self.asked), len(self.asked))

    @staticmethod
    def batch(found: Sequence[Features], device: torch.device | str = "cpu") -> Batch:
        return collate(found, device)


@dataclass(frozen=True)
class ExampleIndex:
    """An image of a source and which of its questions to use: what a training step asks for. `number` is that of the
    lesson, for what is drawn at random anew each time that an image is shown."""

    image: int
    questions: tuple[int, ...]
    number: int = 0


@runtime_checkable
class FeatureSource(Protocol):
    """Lessons by number. Frozen features are computed when asked for or read from disk; the same numbers either way."""

    def __len__(self) -> int: ...

    def questions(self, image: int) -> int:
        """How many questions there are about an image."""

    def features(self, pick: ExampleIndex) -> TrainingExample: ...

    def fingerprint(self) -> str:
        """Tells one source from another: a hash of all that decides its features."""


@dataclass(frozen=True)
class Batch:
    """Images with their questions, ready for a method, in fp32. Void questions fill up images that have fewer."""

    given: Readout | TunedInputs  # of a frozen MLLM, or for one that is tuned
    embedding: Embedding | None
    truth: Truth


def extract(
    sample: Sample,
    backbone: Backbone,
    decoder: MaskDecoder,
    questions: Iterable[int] | None = None,
    floors: int | None = None,
) -> Features:
    """See an image once, read some of its questions (default all) in one pass, and lay the truth on both grids; with
    `floors`, in place of the backbone's grid on one of so many cells a side, by `floor_targets`."""
    targets = sample.targets if questions is None else tuple(sample.targets[q] for q in questions)
    opened = backbone.open(sample.image)
    readout = backbone.read(opened, [t.query for t in targets])
    lengths = readout.question_mask[0].sum(-1).tolist()
    masks = areas(targets, opened.frame, decoder.mask_side)
    if floors is None:
        cells = areas(targets, opened.frame, readout.grid[0])
    else:
        cells = floor_targets(np.stack([t.mask for t in targets]), opened.frame, floors)
    asked = [
        QuestionFeatures(
            readout.question[0, q, :n].cpu(), readout.question_positions[0, q, :n].cpu(), masks[q], cells[q], t.present
        )
        for q, (t, n) in enumerate(zip(targets, lengths, strict=True))
    ]
    return Features(
        readout.prefix[0].cpu(),
        readout.prefix_positions[0].cpu(),
        readout.image_tokens.cpu(),
        readout.grid,
        decoder.encode(sample.image, opened.frame).each(Tensor.cpu),
        tuple(asked),
    )


def areas(targets: Sequence[Target], frame: Frame, size: int) -> UInt8[Tensor, "q s s"]:
    """The share of every cell of a canvas of `size` cells that each target covers."""
    truth = torch.stack([torch.from_numpy(t.mask) for t in targets])
    return (FULL * frame.to_canvas_mask(truth, size)).round().to(torch.uint8)


def collate(found: Sequence[Features], device: torch.device | str = "cpu") -> Batch:
    """One batch of several images; what is stored in half precision travels so, and is fp32 where it arrives.

    Raises ValueError when the images were read by different backbones or settings."""
    layouts = {(tuple(f.prefix.shape), f.grid) for f in found}
    if len(layouts) > 1:
        raise ValueError(f"a batch needs images of one layout, got {sorted(layouts)}: read all with one backbone")
    q = max(len(f.asked) for f in found)
    asked = [a for f in found for a in (*f.asked, *[_void(found[0])] * (q - len(f.asked)))]

    def here(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device, non_blocking=True)
        return tensor.float() if tensor.is_floating_point() else tensor

    def split(tensor: Tensor) -> Tensor:
        return here(rearrange(tensor, "(b q) ... -> b q ...", q=q))

    rows, positions = (
        pad_sequence(x, batch_first=True) for x in ([a.rows for a in asked], [a.positions for a in asked])
    )
    lengths = torch.tensor([len(a.rows) for a in asked])
    readout = Readout(
        prefix=here(torch.stack([f.prefix for f in found])),
        question=split(rows),
        question_positions=split(positions),
        prefix_positions=here(torch.stack([f.prefix_positions for f in found])),
        question_mask=split(torch.arange(rows.shape[1]) < lengths[:, None]),
        image_tokens=here(found[0].image_tokens),
        grid=found[0].grid,
    )
    embedding = Embedding.joined([f.embedding for f in found]).each(here)
    masks, cells = (split(torch.stack(x)).float() / FULL for x in ([a.mask for a in asked], [a.cells for a in asked]))
    present, valid = torch.tensor([a.present for a in asked]), torch.arange(q) < _counts(found)[:, None]
    truth = Truth(masks, cells, split(present), here(valid), here(torch.zeros_like(valid)))
    return Batch(readout, embedding, truth)


def _counts(found: Sequence[Features]) -> Int[Tensor, " b"]:
    return torch.tensor([len(f.asked) for f in found])


def _void(like: Features) -> QuestionFeatures:
    """A question that nobody asked, one token long: what pads an image with fewer questions than its neighbours."""
    one = like.asked[0]
    rows, positions = torch.zeros_like(one.rows[:1]), torch.zeros_like(one.positions[:1])
    return QuestionFeatures(rows, positions, torch.zeros_like(one.mask), torch.zeros_like(one.cells), False)


class Live:
    """A dataset as lessons, made by `read` of a sample and what is asked about it whenever that is asked for. `name` is
    how the user named the data, `key` what the parts are, their weights included, and `keep` leaves of a sample the
    questions that can be learnt."""

    def __init__(
        self,
        samples: Dataset,
        read: Callable[[Sample, ExampleIndex], TrainingExample],
        name: str,
        key: Mapping[str, Any],
        keep: Callable[[Sample], Sample] = lambda sample: sample,
    ):
        self.samples, self.read, self.name, self.key, self.keep = samples, read, name, key, keep
        self._last: tuple[int, Sample | None] = -1, None  # drawing questions and reading them decodes an image once

    def __len__(self) -> int:
        return len(self.samples)

    def _sample(self, image: int) -> Sample | None:
        """None for one that the data leaves out."""
        if self._last[0] != image:
            sample = usable(self.samples, image)[0]
            self._last = image, None if sample is None else self.keep(sample)
        return self._last[1]

    def questions(self, image: int) -> int:
        sample = self._sample(image)
        return 0 if sample is None else len(sample.targets)

    def features(self, pick: ExampleIndex) -> TrainingExample:
        sample = self._sample(pick.image)
        if sample is None:
            raise ValueError(f"image {pick.image} of {self.name} is left out; ask for one that has questions")
        return self.read(sample, pick)

    def fingerprint(self) -> str:
        made = [self.name, len(self), self.key]
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]
