"""The values between a tuned MLLM, its method and its training: frozen dataclasses, axes as in `core.types`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Tuning:
    """What is trained of an MLLM, all of it stored apart from it: low-rank adapters (LoRA) on linear layers chosen by
    name, rows for the new `tokens` and, on request, copies of whole parts."""

    tokens: tuple[str, ...]
    rank: int = 8  # of the language model's adapters; 0 is none
    alpha: float = 16.0  # an adapter adds alpha / rank * B A x
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    vision_rank: int = 0  # of adapters on all linear layers of the vision tower, with alpha = 2 rank
    projector: bool = False  # a trained copy of the part between vision tower and language model
    vocabulary: bool = False  # trained copies of the word embedding and the output layer
    final_norm: bool = False  # a trained copy of the norm after the language model's last layer


@dataclass(frozen=True)
class AnswerTemplates:
    """The texts around a query for an MLLM that answers in segmentation tokens; "{}" stands for the query.

    Training uses one of several `answers` for each query; to segment, the first is given as the MLLM's own answer.
    `refusal` answers a query that nothing in the image fits; without one every query is answered by the tokens."""

    tokens: tuple[str, ...]  # in the order in which they stand in an answer
    request: str = "{} Please output segmentation mask."
    answers: tuple[str, ...] = ("[SEG].",)
    refusal: str | None = None


@dataclass(frozen=True)
class TrainingFormat:
    """How a picture and its queries are presented in training, where that differs from later use.

    Up to `queries` of them are one conversation: one of `requests` names them all, and the answer begins with one of
    `openings`, followed by an item for each query, with the number of the opening; "{}" stands for a query. `refusals`
    are the items of queries that nothing fits. A picture is saved as JPEG of a quality between the two of `jpeg` and
    read again; () leaves it as it is."""

    queries: int
    requests: tuple[str, ...]
    openings: tuple[str, ...]
    items: tuple[str, ...]
    refusals: tuple[str, ...]
    jpeg: tuple[int, ...] = ()


# Which rows attend to later ones: none; image tokens to each other; these also to the segmentation tokens; these to all
# words after the image; all rows to all
Attention = Literal["causal", "images", "dual", "text", "full"]
# How each patch of the vision tower gets its own row: not at all; from itself alone; from its neighbourhood
Refill = Literal["none", "replicate", "scan"]


@dataclass(frozen=True)
class TokenizedAnswer:
    """A question with its answer as a tuned MLLM reads them, from the end of the image on."""

    ids: tuple[int, ...]  # the ids of new tokens begin at the width of the model's output layer
    learnt: tuple[bool, ...]  # the answer's tokens; none where another query of the same conversation has them
    places: tuple[int, ...]  # of the segmentation tokens (in a refusal all at its place; void in a spoken answer)
    spoken: bool


@dataclass(frozen=True)
class TunedInputs:
    """`b` images with questions and answers, as a tuned MLLM takes them: q questions each, t tokens of a question with
    its answer, padded on the right."""

    pixels: Float[Tensor, "b 3 n m"]  # the normalised canvas, of whole tiles
    words: Int[Tensor, "b q t"]
    mask: Bool[Tensor, "b q t"]  # false for padding
    learnt: Bool[Tensor, "b q t"]  # the answer's tokens
    places: Int[Tensor, "b q k"]  # index in t of the segmentation tokens (in a refusal all at its place)
    spoken: Bool[Tensor, "b q"]  # answered in words alone: no mask is asked for, `places` are void


@dataclass(frozen=True)
class TunedReadout:
    """What a tuned MLLM computes from `TunedInputs`: states after its last layer and final norm, and their sources.

    The vision tower's patches may be finer than the image tokens: h w = shuffle * grid, and an image token was made of
    shuffle x shuffle of them (InternVL's pixel-shuffle: 2; LLaVA: 1)."""

    patches: Float[Tensor, "b f v"]  # of the vision tower's last layer, in raster order, before pixel-shuffle
    given: Float[Tensor, "b i d"]  # image tokens, input of the language model (F_V1 of SELF1E)
    refilled: Float[Tensor, "b f d"] | None  # every patch projected (F_V1^HQ), by the `Refill` asked for
    # Image tokens after the last layer (F_IMG); r is q where questions change it, or 1
    image: Float[Tensor, "b r i d"]
    segment: Float[Tensor, "b q k d"]  # the states that predict the segmentation tokens
    grid: tuple[int, int]  # of image tokens
    shuffle: int
    choice: Float[Tensor, "b q a"]  # logits over all words and new tokens, in the state that predicts the first of them
    text_loss: Float[Tensor, "b q"] | None = None  # cross-entropy of the answer, mean over its tokens; in training
    before: Float[Tensor, "b d"] | None = None  # the state of the token before the image, of the same layer as `image`

    @property
    def fine_grid(self) -> tuple[int, int]:
        return self.grid[0] * self.shuffle, self.grid[1] * self.shuffle
