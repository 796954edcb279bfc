"""Batches of nested tensors, joined and taken apart; memory of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seglens.core.batched_parts import joined, of_image
from seglens.core.object_memory import bytes_held, compact


@dataclass(frozen=True)
class Parts:
    name: str
    features: Tensor
    memory: tuple[list[Tensor], list[Tensor]]


def parts(start: int) -> Parts:
    def one(k: int) -> Tensor:
        return torch.full((1, 2), float(start + k))

    return Parts("a", one(0), ([one(1)], [one(2), one(3)]))


def test_an_image_of_a_batch_is_what_was_joined() -> None:
    batch = joined([parts(10), parts(20)])
    assert batch.features.tolist() == [[10, 10], [20, 20]]
    assert batch.name == "a"
    for k, start in enumerate((10, 20)):
        part, original = of_image(batch, k), parts(start)
        assert torch.equal(part.features, original.features)
        assert [x.tolist() for x in part.memory[1]] == [x.tolist() for x in original.memory[1]]
        assert bytes_held(compact(part)) == bytes_held(original)


def test_a_part_of_a_larger_storage_gets_its_own() -> None:
    whole = torch.arange(80.0).reshape(8, 10)
    shown = Parts("a", whole[1:2], ([whole[2:3, ::2]], [torch.zeros(1)]))
    own = compact(shown)
    assert bytes_held(shown) == 80 * 4 + 4
    assert bytes_held(own) == (10 + 5 + 1) * 4
    assert torch.equal(own.features, shown.features)
    assert torch.equal(own.memory[0][0], shown.memory[0][0])
    assert own.memory[1][0] is shown.memory[1][0]
    untouched = parts(1)
    assert compact(untouched).features is untouched.features
