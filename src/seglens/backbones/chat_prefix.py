"""How likely the untouched MLLM finds given answers: no answer is generated, and no token is run twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionLayer

from seglens.backbones.chat import MLLMChat
from seglens.backbones.chat_template import QuestionError
from seglens.backbones.mllm import MLLM
from seglens.backbones.positions import after
from seglens.backbones.transformers_cache import Memory, as_cache


@dataclass(frozen=True)
class ChatPrefix:
    """A question about an image that was run through the MLLM in its chat: every layer's keys and values, or inputs of
    its convolution.

    Another question that begins alike costs only its own tokens."""

    behind: tuple[int, ...]  # the tokens after the image
    start: int  # how many stand before those
    positions: Int[Tensor, "1 n ..."]  # rotary positions of all
    memory: Sequence[Memory]

    def shared(self, ids: Sequence[int]) -> int:
        """How many of `ids`, which stand after the same image, were run already; at least one is left to run: the state
        that follows from it is not kept."""
        most = min(len(self.behind), len(ids) - 1)
        return next((n for n in range(most) if self.behind[n] != ids[n]), most)

    def cut(self, count: int) -> tuple[Int[Tensor, "1 m ..."], list[Memory]]:
        """Positions, and what the layers keep, up to the first `count` tokens after the image."""
        end = self.start + count
        return self.positions[:, :end], [_first(layer, end) for layer in self.memory]


def _first(memory: Memory, end: int) -> Memory:
    if isinstance(memory, Tensor):
        return memory[..., :end]
    return memory[0][:, :, :end], memory[1][:, :, :end]


def _memory(layer: Any) -> Memory:
    """What a layer of a transformers cache keeps of all tokens."""
    return layer.conv_states[0] if isinstance(layer, LinearAttentionLayer) else (layer.keys, layer.values)


@torch.no_grad()
def chat_prefix(chat: MLLMChat, image: UInt8[np.ndarray, "h w 3"], question: str) -> ChatPrefix:
    """Run a chat's prompt, up to where the answer begins, as the model itself runs it.

    Raises as `MLLMChat.generate_text` does, and ValueError for a model with a sliding window."""
    chat.check()
    mllm = chat.mllm
    if mllm.unlimited_layers < mllm.depth.whole:
        raise ValueError(
            f"decoder layer {mllm.unlimited_layers} has a sliding window, and every layer must see all "
            "that came before; choose another model"
        )
    inputs, behind = chat.inputs([image], question), mllm.prompts.after(question)
    mllm.check_window(inputs["input_ids"].shape[1] + 1)  # and a token after them
    positions = mllm.family.chat_positions(inputs)
    axes_first = rearrange(positions, "b n a -> a b n") if positions.ndim > 2 else positions
    # given its positions the model keeps none for itself: a chat in another thread goes on undisturbed
    cache = DynamicCache(config=mllm.model.config.get_text_config())
    if any(isinstance(layer, LinearAttentionLayer) for layer in cache.layers):
        cache.activate_past_recording()  # else a convolution keeps its last inputs alone
    mllm.model(**inputs, position_ids=axes_first, use_cache=True, logits_to_keep=1, **as_cache(mllm.model, cache))
    memory = list(map(_memory, cache.layers))
    return ChatPrefix(tuple(behind), positions.shape[1] - len(behind), positions, memory)


@torch.no_grad()
def likelihoods(mllm: MLLM, prefix: ChatPrefix, question: str, answers: Sequence[Sequence[int]]) -> Float[Tensor, " a"]:
    """Log-likelihood of the tokens of each answer to a question about the image of `prefix`: the sum over its tokens,
    given those before. All answers take one pass, and what the question shares with the prefix is not run again.

    Raises QuestionError as `Prompts.after` and `MLLM.check_window` do."""
    tokens = mllm.prompts.after(question)
    shared = prefix.shared(tokens)
    left = tokens[shared:]
    rows = list(dict.fromkeys((*left, *answer[:-1]) for answer in answers))
    positions, memory = prefix.cut(shared)
    mllm.check_window(positions.shape[1] + max(map(len, rows)))
    chances = _continuations(mllm, rows, after(positions, 1, max(map(len, rows)))[0], memory)
    row = [rows.index((*left, *answer[:-1])) for answer in answers]
    return torch.stack(
        [chances[r, len(left) - 1 + torch.arange(len(a)), a].sum() for r, a in zip(row, answers, strict=True)]
    )


def tokens_of_answers(mllm: MLLM, answers: Sequence[str]) -> list[list[int]]:
    """Raises QuestionError for no answer and for an empty one."""
    tokens = [mllm.prompts.text_tokens(answer) for answer in answers]
    if not tokens or not all(tokens):
        raise QuestionError(f"got the answers {list(answers)}; give at least one, none of them empty")
    return tokens


def _continuations(
    mllm: MLLM, rows: Sequence[Sequence[int]], positions: Int[Tensor, "1 t ..."], memory: Sequence[Memory]
) -> Float[Tensor, "r t v"]:
    """Log-probabilities of what follows each token of each row, all rows in one pass after what is in memory."""
    tokens = [torch.tensor(row, device=positions.device) for row in rows]
    ids = pad_sequence(tokens, batch_first=True)[None]
    mask = pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True).bool()[None]
    places = positions[:, None].expand(1, len(rows), *positions.shape[1:])
    states = mllm.layers().questions(mllm.model.get_input_embeddings()(ids), places, mask, memory)
    return mllm.model.get_output_embeddings()(mllm.final_norm(states))[0].float().log_softmax(-1)
