"""The features of a sample: what the frozen parts compute of it, and what a method on frozen parts learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seglens.backbones import Backbone
from seglens.core.geometry import floor_targets
from seglens.core.types import Embedding, Readout, Sample, Totals
from seglens.decoders import MaskDecoder
from seglens.features.examples import Batch, areas, truth_of


@dataclass(frozen=True)
class QuestionFeatures:
    """One question about an image: its own rows at the read layer, and the truth as covered area (255 is all)."""

    rows: Float[Tensor, "t d"]
    positions: Int[Tensor, "t ..."]
    mask: UInt8[Tensor, "s s"]  # on the mask decoder's canvas
    cells: UInt8[Tensor, "h w"]  # on the backbone's grid, or floored on another (`extract`)
    present: bool


@dataclass(frozen=True)
class Features:
    """The features of one image and of some questions about it, in the precision of the frozen parts."""

    prefix: Float[Tensor, "p d"]
    prefix_positions: Int[Tensor, "p ..."]
    image_tokens: Int[Tensor, " i"]
    grid: tuple[int, int]
    embedding: Embedding  # of a single image: b is 1
    questions: tuple[QuestionFeatures, ...]

    def totals(self) -> Totals:
        return Totals(sum(q.present for q in self.questions), len(self.questions), len(self.questions))

    @staticmethod
    def batch(examples: Sequence[Features], device: torch.device | str = "cpu") -> Batch:
        """What is stored in half precision is moved in it, and is fp32 on the device.

        Raises ValueError when the images were read by different backbones or settings."""
        layouts = {(tuple(one.prefix.shape), one.grid) for one in examples}
        if len(layouts) > 1:
            raise ValueError(f"a batch needs images of one layout, got {sorted(layouts)}: read all with one backbone")

        def moved(tensor: Tensor) -> Tensor:
            tensor = tensor.to(device, non_blocking=True)
            return tensor.float() if tensor.is_floating_point() else tensor

        truth = truth_of(
            [torch.stack([q.mask for q in one.questions]) for one in examples],
            [torch.stack([q.cells for q in one.questions]) for one in examples],
            [[q.present for q in one.questions] for one in examples],
            device,
        )
        embedding = Embedding.joined([one.embedding for one in examples]).each(moved)
        return Batch(_readout(examples, moved), embedding, truth)


def _readout(examples: Sequence[Features], moved: Callable[[Tensor], Tensor]) -> Readout:
    """A void question is one token long."""
    longest = max(len(one.questions) for one in examples)
    first = examples[0].questions[0]
    void = first.rows.new_zeros(1, first.rows.shape[1]), torch.zeros_like(first.positions[:1])
    questions = [
        pair
        for one in examples
        for pair in (*((q.rows, q.positions) for q in one.questions), *[void] * (longest - len(one.questions)))
    ]
    rows, positions = (pad_sequence(list(each), batch_first=True) for each in zip(*questions, strict=True))
    lengths = torch.tensor([len(rows) for rows, _ in questions])

    def split(tensor: Tensor) -> Tensor:
        return moved(rearrange(tensor, "(b q) ... -> b q ...", q=longest))

    return Readout(
        prefix=moved(torch.stack([one.prefix for one in examples])),
        prefix_positions=moved(torch.stack([one.prefix_positions for one in examples])),
        question=split(rows),
        question_positions=split(positions),
        question_mask=split(torch.arange(rows.shape[1]) < lengths[:, None]),
        image_tokens=moved(examples[0].image_tokens),
        grid=examples[0].grid,
    )


def extract(
    sample: Sample,
    backbone: Backbone,
    decoder: MaskDecoder,
    questions: Iterable[int] | None = None,
    floors: int | None = None,
) -> Features:
    """Encode an image once, read some of its questions (default all) in one pass, and put the truth on both grids; with
    `floors`, in place of the backbone's grid on one of `floors` cells a side, by `floor_targets`."""
    targets = sample.targets if questions is None else tuple(sample.targets[q] for q in questions)
    opened = backbone.open(sample.image)
    readout = backbone.read(opened, [t.query for t in targets])
    lengths = readout.question_mask[0].sum(-1).tolist()
    masks = areas(targets, opened.frame, decoder.mask_side)
    if floors is None:
        cells = areas(targets, opened.frame, readout.grid)
    else:
        cells = floor_targets(np.stack([t.mask for t in targets]), opened.frame, floors)
    features = [
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
        tuple(features),
    )
