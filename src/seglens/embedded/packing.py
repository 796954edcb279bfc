"""Many questions after one image, in one sequence: every question attends to the image and to itself alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from seglens.embedded.models import VisionSize
from seglens.world.language import Question

IGNORED = -100
LENGTH_POWER = -0.7  # an answer of n tokens weighs n^-0.7 a token: captions must not outweigh the one-word answers


@dataclass(frozen=True)
class PackedScenes:
    """A batch of packed scenes; `spans[b]` has (kind, first answer position, answer length) per question of scene b."""

    ids: Int[Tensor, "b t"]
    positions: Int[Tensor, "b t"]
    mask: Float[Tensor, "b 1 t t"]
    labels: Int[Tensor, "b t"]
    weights: Float[Tensor, "b t"]
    spans: list[list[tuple[str, int, int]]]
    first_image: int


def pack(
    tokenizer: PreTrainedTokenizerFast, questions: Sequence[Sequence[Question]], vision_size: VisionSize
) -> PackedScenes:
    """Pack the questions of several scenes, each after its image in the layout of `vision_size`; position ids restart
    after the image for each question."""
    flat = [q for one in questions for q in one]
    encode = lambda texts: tokenizer(texts, add_special_tokens=False).input_ids  # noqa: E731
    requests, answers = encode([f"{q.text} ASSISTANT:" for q in flat]), encode([q.answer for q in flat])
    image = tokenizer.convert_tokens_to_ids(vision_size.image)
    before, after = encode([f"<s>USER:{vision_size.before}", vision_size.after])
    prefix = [*before, *[image] * vision_size.tokens**2, *after]
    rows, at = [], 0
    for one in questions:
        rows.append(
            _row(prefix, one, requests[at : at + len(one)], answers[at : at + len(one)], tokenizer.eos_token_id)
        )
        at += len(one)
    longest = max(len(row[0]) for row in rows)
    pad = lambda k, value: torch.tensor([row[k] + [value] * (longest - len(row[k])) for row in rows])  # noqa: E731
    owner = pad(2, -1)
    attends = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == 0)
    attends &= torch.ones(longest, longest, dtype=torch.bool).tril()
    attends |= torch.eye(longest, dtype=torch.bool)
    mask = torch.zeros(attends.shape).masked_fill(~attends, torch.finfo(torch.float32).min)[:, None]
    spans = [row[5] for row in rows]
    return PackedScenes(pad(0, 0), pad(1, 0), mask, pad(3, IGNORED), pad(4, 0.0), spans, prefix.index(image))


def _row(
    prefix: list[int], questions: Sequence[Question], requests: list[list[int]], answers: list[list[int]], end: int
) -> tuple[list[int], list[int], list[int], list[int], list[float], list[tuple[str, int, int]]]:
    """Ids, positions, owner (0: the image, k: question k), labels, weights and spans of one scene."""
    ids, positions, owner = list(prefix), list(range(len(prefix))), [0] * len(prefix)
    labels, weights = [IGNORED] * len(prefix), [0.0] * len(prefix)
    spans: list[tuple[str, int, int]] = []
    for k, (question, request, answer) in enumerate(zip(questions, requests, answers, strict=True)):
        answer = [*answer, end]
        spans.append((question.kind, len(ids) + len(request), len(answer)))
        ids += request + answer
        positions += range(len(prefix), len(prefix) + len(request) + len(answer))
        owner += [k + 1] * (len(request) + len(answer))
        labels += [IGNORED] * len(request) + answer
        weights += [0.0] * len(request) + [len(answer) ** LENGTH_POWER] * len(answer)
    return ids, positions, owner, labels, weights, spans
