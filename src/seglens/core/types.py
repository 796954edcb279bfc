"""The values that cross boundaries: frozen dataclasses with named axes.

Axes, the same letters everywhere: b images, q questions of one image, t tokens of one question, p tokens of the prefix
(everything up to and including the image), i image tokens, d hidden width, h w rows and columns, m keypoints,
c width of the mask decoder, s side of its square canvas. Of an MLLM that is tuned: n side of the canvas that it sees,
f patches of its vision tower, v their width, k segmentation tokens of one answer, a words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """One query about an image and the mask that answers it; an empty mask means that nothing in the image fits.

    Pixels of `ignore` count neither for nor against a prediction (255 in label maps). `answer` is what an explanatory
    dataset says in words. `id` is the record's in its annotation file: the same whatever else of it is left out.
    `spoken`: the query is answered in words alone; no mask is asked for, so that the empty one says nothing.
    `explained`: the query asks for `answer` beside the mask. `prompted`: the query stands in a template of the data's.
    `box` is the annotation's own (x, y, width, height)."""

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
        """Without the queries that are answered in words alone: for all that knows masks only."""
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
    """Attention that the last token of each of `q` questions (the start of the answer) pays to the image tokens in the
    first `l` decoder layers of a frozen MLLM, each of its `n` heads by itself.

    Probabilities: what a map sums up to is the share of the head's attention that the image has."""

    maps: Float[Tensor, "b l n q h w"]
    inside: Bool[Tensor, "b h w"]  # cells that show some of the image, not its padding alone


@dataclass(frozen=True)
class Tuning:
    """What of an MLLM is trained, all of it kept apart from the MLLM: low-rank adapters (LoRA) on linear layers chosen
    by name, rows for the new `tokens` and, on request, copies of whole parts."""

    tokens: tuple[str, ...]
    rank: int = 8  # of the language model's adapters; 0 is none
    alpha: float = 16.0  # an adapter adds alpha / rank * B A x
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    vision_rank: int = 0  # of adapters on all linear layers of the vision tower, with alpha = 2 rank
    projector: bool = False  # a trained copy of what stands between vision tower and language model
    vocabulary: bool = False  # trained copies of the word embedding and the output layer
    final_norm: bool = False  # a trained copy of the norm behind the language model's last layer


@dataclass(frozen=True)
class AnswerTemplates:
    """What is said to an MLLM that answers in segmentation tokens; "{}" stands for the query.

    Of several `answers` a query is taught one; segmenting puts the first into its mouth. `refusal` answers a query that
    nothing in the image fits; without one every query is answered by the tokens."""

    tokens: tuple[str, ...]  # in the order in which they stand in an answer
    request: str = "{} Please output segmentation mask."
    answers: tuple[str, ...] = ("[SEG].",)
    refusal: str | None = None


@dataclass(frozen=True)
class Practice:
    """How a picture and its queries are shown in training alone, where that is not how they are shown later.

    Up to `queries` of them are one conversation: one of `requests` names them all, and the answer opens with one of
    `openings` and says the item of the same number of each; "{}" stands for a query. `refusals` are the items of
    queries that nothing fits. A picture passes JPEG of a quality between the two of `jpeg`; () leaves it as it is."""

    queries: int
    requests: tuple[str, ...]
    openings: tuple[str, ...]
    items: tuple[str, ...]
    refusals: tuple[str, ...]
    jpeg: tuple[int, ...] = ()


# Who sees whom besides the earlier rows: nobody; image tokens each other; these the segmentation tokens too; these all
# words behind the image; everybody everybody
Attention = Literal["causal", "images", "dual", "text", "full"]
# How every patch of the vision tower gets a row of its own: not at all; from itself alone; from its neighbourhood
Refill = Literal["none", "replicate", "scan"]


@dataclass(frozen=True)
class Words:
    """A question with its answer as an MLLM that is tuned reads them, from behind the image on."""

    ids: tuple[int, ...]  # new tokens are numbered on from the width of the model's output layer
    learnt: tuple[bool, ...]  # the answer's tokens; none where another query of the same conversation has them
    places: tuple[int, ...]  # of the segmentation tokens (all at the refusal's, in a refusal; void in a spoken answer)
    spoken: bool


@dataclass(frozen=True)
class Shown:
    """`b` images with what is said about them, as an MLLM that is tuned takes it: q questions each, t tokens of a
    question with its answer, padded on the right."""

    pixels: Float[Tensor, "b 3 n n"]  # the normalised canvas
    words: Int[Tensor, "b q t"]
    mask: Bool[Tensor, "b q t"]  # false where padding stands
    learnt: Bool[Tensor, "b q t"]  # the answer's tokens
    places: Int[Tensor, "b q k"]  # where in t the segmentation tokens stand (all at the refusal's, in a refusal)
    spoken: Bool[Tensor, "b q"]  # answered in words alone: no mask is asked for, `places` are void


@dataclass(frozen=True)
class Reading:
    """What a tuned MLLM says of `Shown`: states behind its last layer and final norm, and what they came from.

    The vision tower's patches may be finer than the image tokens: h w = shuffle * grid, and an image token was made of
    shuffle x shuffle of them (InternVL's pixel-shuffle: 2; LLaVA: 1)."""

    patches: Float[Tensor, "b f v"]  # of the vision tower's last layer, in raster order, before pixel-shuffle
    given: Float[Tensor, "b i d"]  # image tokens as the language model was given them (F_V1 of SELF1E)
    refilled: Float[Tensor, "b f d"] | None  # every patch projected (F_V1^HQ), by the `Refill` asked for
    image: Float[
        Tensor, "b r i d"
    ]  # image tokens behind the last layer (F_IMG); r is q where questions change it, or 1
    segment: Float[Tensor, "b q k d"]  # the states that predict the segmentation tokens
    grid: tuple[int, int]  # of image tokens
    shuffle: int
    choice: Float[Tensor, "b q a"]  # logits over all words and new tokens, in the state that predicts the first of them
    text_loss: Float[Tensor, "b q"] | None = None  # cross-entropy of the answer, mean over its tokens; in training
    before: Float[Tensor, "b d"] | None = None  # the state of the token in front of the image, as `image` is taken

    @property
    def fine_grid(self) -> tuple[int, int]:
        return self.grid[0] * self.shuffle, self.grid[1] * self.shuffle


@dataclass(frozen=True)
class Embedding:
    """What a mask decoder's image encoder says of `b` images: the map that prompts attend to and, for SAM 2, two finer
    ones (strides 4 and 8) that sharpen the mask."""

    coarse: Float[Tensor, "b c e e"]
    fine: tuple[Float[Tensor, "b _ _ _"], ...] = ()

    @staticmethod
    def joined(found: Sequence[Embedding]) -> Embedding:
        """Of the images of all of them, in order."""
        fine = zip(*(one.fine for one in found), strict=True)
        return Embedding(torch.cat([one.coarse for one in found]), tuple(map(torch.cat, fine)))

    def each(self, change: Callable[[Tensor], Tensor]) -> Embedding:
        """With every map changed: moved, or made another type."""
        return Embedding(change(self.coarse), tuple(map(change, self.fine)))


@dataclass(frozen=True)
class Prompt:
    """What is shown of one target, in canvas units [0, 1], with at least a point or a box; `mask` are logits of an
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
    """Up to m points per question. `points` are canvas coordinates in [0, 1]; where `keep` is false they are void."""

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
    tokens: Int[Tensor, "b q"] | None = (
        None  # how many tokens of each answer are learnt, of a method that is taught any
    )

    def totals(self) -> Totals:
        answered = self.valid | self.spoken
        if self.tokens is not None:  # queries of one conversation have one answer
            answered = answered & (self.tokens > 0)
        counted = (self.present & self.valid, self.valid, answered)
        tokens = 0.0 if self.tokens is None else float(self.tokens[answered].sum())
        return replace(Totals(*(float(mask.sum()) for mask in counted)), tokens=tokens)


@dataclass(frozen=True)
class Totals:
    """How many masks, questions, answers and tokens of answers a loss is averaged over: those of a whole optimiser
    step, on all devices."""

    present: float | int
    valid: float | int
    answered: float | int  # in segmentation tokens or in words; queries of one conversation count once
    tokens: float | int = 0  # of answers, that are learnt


@dataclass(frozen=True)
class MethodOutput:
    """What a method says of `b` images with `q` questions each. Logits live on the method's square canvas."""

    mask_logits: Float[Tensor, "b q s s"]
    heat_map: Float[Tensor, "b q h w"] | None = None
    keypoints: Keypoints | None = None
    presence_logits: Float[Tensor, "b q"] | None = None
    coarse_logits: Float[Tensor, "b q _ _"] | None = None  # a first, coarser mask that is taught too (SELF1E)
    text_loss: Float[Tensor, "b q"] | None = None  # cross-entropy of the answers, of a method that tunes its MLLM
