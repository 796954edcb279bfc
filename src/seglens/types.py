"""The values that cross boundaries: frozen dataclasses with named axes.

Axes, the same letters everywhere: b images, q questions of one image, t tokens of one question, p tokens of the prefix
(everything up to and including the image), i image tokens, d hidden width, h w rows and columns, m keypoints,
c width of the mask decoder, s side of its square canvas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """One query about an image and the mask that answers it; an empty mask means that nothing in the image fits.

    Pixels of `ignore` count neither for nor against a prediction (255 in label maps). `answer` is what an explanatory
    dataset says in words. `id` is the record's in its annotation file: the same whatever else of it is left out."""

    query: str
    mask: Bool[np.ndarray, "h w"]
    kind: str = "query"
    ignore: Bool[np.ndarray, "h w"] | None = None
    answer: str | None = None
    id: str | None = None

    @property
    def present(self) -> bool:
        return bool(self.mask.any())


@dataclass(frozen=True)
class Sample:
    """An image with all the queries about it: the unit of data, because the image is what costs."""

    id: str
    image: UInt8[np.ndarray, "h w 3"]
    targets: tuple[Target, ...]


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
class Embedding:
    """What a mask decoder's image encoder says of `b` images: the map that prompts attend to and, for SAM 2, two finer
    ones (strides 4 and 8) that sharpen the mask."""

    coarse: Float[Tensor, "b c e e"]
    fine: tuple[Float[Tensor, "b _ _ _"], ...] = ()


@dataclass(frozen=True)
class Keypoints:
    """Up to m points per question. `points` are canvas coordinates in [0, 1]; where `keep` is false they are void."""

    points: Float[Tensor, "b q m 2"]
    scores: Float[Tensor, "b q m"]
    keep: Bool[Tensor, "b q m"]


@dataclass(frozen=True)
class Truth:
    """What a method's output is compared with in training: the share, in [0, 1], of each cell that the target covers.

    Where `valid` is false there is no question (images of a batch may have different numbers of them); where `present`
    is false the target is not in the image."""

    masks: Float[Tensor, "b q s s"]  # on the mask decoder's canvas
    cells: Float[Tensor, "b q h w"]  # on the backbone's grid
    present: Bool[Tensor, "b q"]
    valid: Bool[Tensor, "b q"]

    def totals(self) -> Totals:
        return Totals(float((self.present & self.valid).sum()), float(self.valid.sum()))


@dataclass(frozen=True)
class Totals:
    """How many masks and questions a loss is averaged over: those of a whole optimiser step, on all devices."""

    present: float
    valid: float


@dataclass(frozen=True)
class MethodOutput:
    """What a method says of `b` images with `q` questions each. Logits live on the mask decoder's square canvas."""

    mask_logits: Float[Tensor, "b q s s"]
    heat_map: Float[Tensor, "b q h w"] | None = None
    keypoints: Keypoints | None = None
    presence_logits: Float[Tensor, "b q"] | None = None
