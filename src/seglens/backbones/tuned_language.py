"""The language side of an MLLM with an adapter: all decoder layers over the prefix and the questions with answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seglens.backbones.layers import DecoderLayers, sequence_mask
from seglens.backbones.mllm import MLLM
from seglens.backbones.positions import after
from seglens.backbones.tiles import Tiling
from seglens.backbones.transformers_cache import Memory
from seglens.backbones.tuned_vision import VisionRows
from seglens.core.tuning_types import Attention, TokenizedAnswer


@dataclass(frozen=True)
class PrefixStates:
    """A prefix that no question changes, run once for all of them: its image tokens after the last layer and the token
    before them, and the keys and values of every layer."""

    image: Float[Tensor, "b i d"]
    before: Float[Tensor, "b d"] | None
    memory: Sequence[Memory]


@dataclass(frozen=True)
class AnsweredQuestions:
    """Questions with their answers, as in `TunedInputs`."""

    words: Int[Tensor, "b q t"]
    mask: Bool[Tensor, "b q t"]
    places: Int[Tensor, "b q k"]
    spoken: Bool[Tensor, "b q"]

    @classmethod
    def padded(cls, questions: Sequence[TokenizedAnswer], device: torch.device) -> AnsweredQuestions:
        """Questions about one image, padded on the right."""
        rows = [torch.tensor(words.ids, device=device) for words in questions]
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).bool()
        places = torch.tensor([words.places for words in questions], device=device)
        spoken = torch.tensor([words.spoken for words in questions], device=device)
        return cls(pad_sequence(rows, batch_first=True)[None], mask[None], places[None], spoken[None])


@dataclass(frozen=True)
class LastStates:
    """States after the last layer and its norm: image tokens, questions with answers, and the token before the image;
    r is q where questions change the image, or 1."""

    image: Float[Tensor, "b r i d"]
    words: Float[Tensor, "b q t d"]
    before: Float[Tensor, "b d"] | None


@final
@dataclass(frozen=True, eq=False)
class TunedLanguage:
    """Runs all decoder layers of `mllm`; `attention` states which earlier and later rows each row attends to, and
    `recompute` is as in `DecoderLayers`."""

    mllm: MLLM
    attention: Attention
    recompute: bool = False

    def _layers(self) -> DecoderLayers:
        return self.mllm.layers(recompute=self.recompute)

    def prefix(self, vision: VisionRows) -> PrefixStates:
        image = vision.given.shape[1] if self.attention == "images" else 0
        rows, memory = self._layers().prefix(vision.rows, vision.positions, vision.later, image)
        return PrefixStates(*_image(self._normed(rows), rows.shape[1], vision.tiling), memory)

    def states(self, vision: VisionRows, prefix: PrefixStates | None, questions: AnsweredQuestions) -> LastStates:
        """Of questions after a prefix that was run, or with `None` each after its copy of the prefix, which changes."""
        words = self.mllm.model.get_input_embeddings()(questions.words)
        positions = after(vision.positions, *questions.words.shape[1:])
        self.mllm.check_window(vision.positions.shape[1] + questions.words.shape[2])
        if prefix is None:
            return self._whole(vision, words, positions, questions)
        states = self._normed(self._layers().questions(words, positions, questions.mask, prefix.memory))
        return LastStates(prefix.image[:, None], states, prefix.before)

    def logits(self, states: Float[Tensor, "*b d"]) -> Float[Tensor, "*b a"]:
        """Over all words and new tokens."""
        return self.mllm.model.get_output_embeddings()(states).to(self.mllm.device)

    def text_loss(
        self, states: Float[Tensor, "b q t d"], words: Int[Tensor, "b q t"], learnt: Bool[Tensor, "b q t"]
    ) -> Float[Tensor, "b q"]:
        """Cross-entropy of each learnt token in the state before it, mean over those of a question; 0 without any."""
        b, q, t = (learnt[:, :, 1:]).nonzero(as_tuple=True)  # logits over the vocabulary only where they are learnt
        logits = self.mllm.model.get_output_embeddings()(states[b, q, t]).to(states.device)
        losses = F.cross_entropy(logits.float(), words[b, q, t + 1], reduction="none")
        total = losses.new_zeros(learnt.shape[:2]).index_put((b, q), losses, accumulate=True)
        return total / learnt[:, :, 1:].sum(-1).clamp(min=1)

    def _whole(
        self,
        vision: VisionRows,
        words: Float[Tensor, "b q t d"],
        positions: Int[Tensor, "b q t ..."],
        questions: AnsweredQuestions,
    ) -> LastStates:
        (_, p, _), i, q = vision.rows.shape, vision.given.shape[1], words.shape[1]
        rows = torch.cat([repeat(vision.rows, "b p d -> b q p d", q=q), words], 2).flatten(0, 1)
        places = torch.cat([repeat(vision.positions, "b p ... -> b q p ...", q=q), positions], 2).flatten(0, 1)
        visible = sequence_mask(
            self.attention, p, i, questions.mask, questions.places, questions.spoken, self.mllm.family.mutual
        )
        later = [repeat(added, "b i d -> (b q) i d", q=q) for added in vision.later]
        states = self._normed(self._layers().whole(rows, places, visible, later, p))
        image, before = _image(states, p, vision.tiling)
        image, words = (rearrange(x, "(b q) l d -> b q l d", q=q) for x in (image, states[:, p:]))
        # no question changes what comes before the image
        return LastStates(image, words, None if before is None else before[::q])

    def _normed(self, rows: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.mllm.final_norm(rows).to(self.mllm.device)


def _image(
    states: Float[Tensor, "b l d"], end: int, tiling: Tiling
) -> tuple[Float[Tensor, "b i d"], Float[Tensor, "b d"] | None]:
    """The image tokens of a prefix of `end` rows in raster order, and the token before the first; tiles, whose tokens
    stand in another order, have none."""
    first = end - tiling.tokens
    before = states[:, first - 1] if first and tiling.tiles == 1 else None
    return states[:, first + tiling.places.to(states.device)], before
