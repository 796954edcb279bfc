"""How likely the untouched MLLM finds given answers: no answer is generated, and what was heard before is not heard
again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from seglens.backbones.layers import DecoderLayers
from seglens.backbones.transformers_cache import Pair, as_cache


@dataclass(frozen=True)
class ChatPrefix:
    """A question about an image as the MLLM has heard it in its chat: every layer's keys and values.

    Another question that begins alike pays only for its own words."""

    behind: tuple[int, ...]  # the tokens behind the image
    start: int  # how many stand before those
    positions: Int[Tensor, "1 n ..."]  # rotary positions of all
    memory: Sequence[Pair]

    def shared(self, ids: Sequence[int]) -> int:
        """How many of `ids`, which stand behind the same image, were heard already; one is left to be said at least:
        what it leads to is not kept."""
        most = min(len(self.behind), len(ids) - 1)
        return next((n for n in range(most) if self.behind[n] != ids[n]), most)

    def cut(self, count: int) -> tuple[Int[Tensor, "1 m ..."], list[Pair]]:
        """Positions, keys and values up to the first `count` tokens behind the image."""
        end = self.start + count
        return self.positions[:, :end], [(keys[:, :, :end], values[:, :, :end]) for keys, values in self.memory]


def hear(model: Any, inputs: dict[str, Tensor], positions: Int[Tensor, "1 n ..."], behind: Sequence[int]) -> ChatPrefix:
    """Run a chat's prompt as the model itself runs it. `behind` are its last tokens, those behind the image."""
    axes_first = rearrange(positions, "b n a -> a b n") if positions.ndim > 2 else positions
    # given its positions the model keeps none for itself: a chat in another thread goes on undisturbed
    held = DynamicCache(config=model.config.get_text_config())
    model(**inputs, position_ids=axes_first, use_cache=True, logits_to_keep=1, **as_cache(model, held))
    memory = [(layer.keys, layer.values) for layer in held.layers]
    return ChatPrefix(tuple(behind), positions.shape[1] - len(behind), positions, memory)


def continuations(
    layers: DecoderLayers,
    norm: nn.Module,
    words: nn.Module,
    head: nn.Module,
    rows: Sequence[Sequence[int]],
    positions: Int[Tensor, "1 t ..."],
    memory: Sequence[Pair],
) -> Float[Tensor, "r t v"]:
    """Log-probabilities of what follows each token of each row, all rows in one pass behind what is in memory."""
    device = positions.device
    asked = [torch.tensor(row, device=device) for row in rows]
    ids = pad_sequence(asked, batch_first=True)[None]
    mask = pad_sequence([torch.ones_like(row) for row in asked], batch_first=True).bool()[None]
    places = positions[:, None].expand(1, len(rows), *positions.shape[1:])
    states = layers.questions(words(ids), places, mask, memory)
    return head(norm(states))[0].float().log_softmax(-1)
