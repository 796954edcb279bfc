"""The values that packages pass to each other: frozen dataclasses with named axes.

Axes, the same letters everywhere: b images, q questions of one image, t tokens of one question, p tokens of the prefix
(everything up to and including the image), i image tokens, d hidden width, h w rows and columns, m keypoints,
c width of the mask decoder, s side of its square canvas. Of an MLLM that is tuned: n side of the canvas that it sees,
f patches of its vision tower, v their width, k segmentation tokens of one answer, a words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """One query about an image and the mask that answers it; an empty mask means that nothing in the image fits.

    Pixels of `ignore` count neither for nor against a prediction (255 in label maps). `answer` is the text of an
    explanatory dataset. `id` is the record's in its annotation file, and does not depend on records that are left out.
    `spoken`: the query is answered in words alone; no mask is asked for, and the empty one has no meaning.
    `explained`: the query asks for `answer` beside the mask. `prompted`: the query is already in a template of the
    data. `box` is the one in the annotation (x, y, width, height)."""

    query: str
    mask: Bool[np.ndarray, "h w"]
    kind: str = "query"
    ignore: Bool[np.ndarray, "h w"] | None = None
    answer: str | None = None
    id: str | None = None
    spoken: bool = False
    explained: bool = False
    prompted: bool = False
    box: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.spoken and (not self.answer or self.mask.any()):
            raise ValueError(
                f"{self.query!r} is answered in words alone; it needs an answer, and a mask without pixels"
            )
        if self.explained and (self.spoken or not self.answer):
            raise ValueError(f"{self.query!r} asks for words beside its mask; it needs an answer and a mask")

    @property
    def present(self) -> bool:
        return bool(self.mask.any())


@dataclass(frozen=True)
class Sample:
    """An image with all the queries about it: the unit of data, because the image is what costs."""

    id: str
    image: UInt8[np.ndarray, "h w 3"]
    targets: tuple[Target, ...]

    def drawn(self) -> Sample:
        """Without the queries that are answered in words alone: for code that handles masks only."""
        kept = tuple(target for target in self.targets if not target.spoken)
        return self if len(kept) == len(self.targets) else replace(self, targets=kept)


@dataclass(frozen=True)
class Readout:
    """Hidden states of a frozen MLLM at one layer, for `b` images with `q` questions each.

    The prefix is the same for every question of an image (causal attention: the image comes first and never sees the
    question). Questions are padded on the right; the last real token of each is the start-of-answer token.
    """

    prefix: Float[Tensor, "b p d"]
    prefix_positions: Int[Tensor, "b p ..."]  # a last axis of 3 under M-RoPE: time, row, column
    question: Float[Tensor, "b q t d"]
    question_positions: Int[Tensor, "b q t ..."]
    question_mask: Bool[Tensor, "b q t"]
    image_tokens: Int[Tensor, " i"]  # rows of the prefix that are image tokens, in raster order
    grid: tuple[int, int]  # h, w with h * w == i


@dataclass(frozen=True)
class HeadMaps:
    """Attention from the last token of each of `q` questions (the start of the answer) to the image tokens in the first
    `l` decoder layers of a frozen MLLM, for each of its `n` heads.

    Probabilities: the sum of a map is the share of the head's attention that goes to the image."""

    maps: Float[Tensor, "b l n q h w"]
    inside: Bool[Tensor, "b h w"]  # cells with some of the image, not padding alone
    several: Bool[Tensor, "b q"] | None = None  # whether the words of the question name several things; None: unknown
    part: Bool[Tensor, "b q"] | None = None  # ... or a part of a thing


@dataclass(frozen=True)
class Embedding:
    """What a mask decoder's image encoder computes for `b` images: the map that prompts attend to and, for SAM 2, two
    finer ones (strides 4 and 8) that sharpen the mask."""

    coarse: Float[Tensor, "b c e e"]
    fine: tuple[Float[Tensor, "b _ _ _"], ...] = ()

    @staticmethod
    def joined(embeddings: Sequence[Embedding]) -> Embedding:
        """One embedding of the images of all, in order."""
        fine = zip(*(one.fine for one in embeddings), strict=True)
        return Embedding(torch.cat([one.coarse for one in embeddings]), tuple(map(torch.cat, fine)))

    def image(self, k: int) -> Embedding:
        """That of one image of a batch."""
        return self.each(lambda x: x[k : k + 1])

    def each(self, change: Callable[[Tensor], Tensor]) -> Embedding:
        """With every map changed: moved to a device, or converted to another type."""
        return Embedding(change(self.coarse), tuple(map(change, self.fine)))


@dataclass(frozen=True)
class Prompt:
    """Points and a box of one target, in canvas units [0, 1], at least one of them; `mask` holds the logits of an
    earlier mask."""

    points: Float[Tensor, "n 2"]
    labels: Int[Tensor, " n"]  # 1 on the target, 0 off it
    box: Float[Tensor, " 4"] | None = None
    mask: Float[Tensor, "s s"] | None = None

    def to(self, device: torch.device) -> Prompt:
        box, mask = (None if x is None else x.to(device) for x in (self.box, self.mask))
        return Prompt(self.points.to(device), self.labels.to(device), box, mask)


@dataclass(frozen=True)
class Keypoints:
    """Up to m points per question. `points` are canvas coordinates in [0, 1], and without meaning where `keep` is
    false."""

    points: Float[Tensor, "b q m 2"]
    scores: Float[Tensor, "b q m"]
    keep: Bool[Tensor, "b q m"]


@dataclass(frozen=True)
class Truth:
    """What a method's output is compared with in training: the share, in [0, 1], of each cell that the target covers.

    Where `valid` is false there is no question (images of a batch may have different numbers of them); where `present`
    is false the target is not in the image."""

    masks: Float[Tensor, "b q s s"]  # on the canvas of the method's mask logits
    cells: Float[Tensor, "b q h w"]  # on the backbone's grid
    present: Bool[Tensor, "b q"]
    valid: Bool[Tensor, "b q"]
    spoken: Bool[Tensor, "b q"]  # a question to be answered in words alone: it has no mask, and is not `valid`
    tokens: Int[Tensor, "b q"] | None = None  # trained tokens of each answer; None where a method trains none

    def totals(self) -> Totals:
        answered = self.valid | self.spoken
        if self.tokens is not None:  # queries of one conversation have one answer
            answered = answered & (self.tokens > 0)
        counted = (self.present & self.valid, self.valid, answered)
        tokens = 0.0 if self.tokens is None else float(self.tokens[answered].sum())
        return replace(Totals(*(float(mask.sum()) for mask in counted)), tokens=tokens)


@dataclass(frozen=True)
class Totals:
    """The numbers of masks, questions, answers and tokens of answers over which a loss is averaged: those of a whole
    optimiser step, on all devices."""

    present: float | int
    valid: float | int
    answered: float | int  # in segmentation tokens or in words; queries of one conversation count once
    tokens: float | int = 0  # of answers, those that are trained


@dataclass(frozen=True)
class MethodOutput:
    """What a method computes for `b` images with `q` questions each. Logits are on the method's square canvas."""

    mask_logits: Float[Tensor, "b q s s"]
    heat_map: Float[Tensor, "b q h w"] | None = None
    keypoints: Keypoints | None = None
    presence_logits: Float[Tensor, "b q"] | None = None
    coarse_logits: Float[Tensor, "b q _ _"] | None = None  # a first, coarser mask, trained too (SELF1E)
    text_loss: Float[Tensor, "b q"] | None = None  # cross-entropy of the answers, of a method that tunes its MLLM

    def image(self, k: int) -> MethodOutput:
        """What was computed for one image of the batch."""

        def part(value: Any) -> Any:
            if isinstance(value, Keypoints):
                return Keypoints(part(value.points), part(value.scores), part(value.keep))
            return None if value is None else value[k : k + 1]

        return MethodOutput(*(part(getattr(self, field.name)) for field in fields(self)))
