"""Learned weights of attention heads, in place of their mean, for the map of LENS (Eq. 1). Not in the paper.

The weights may start from localization heads (Kang et al., arXiv 2503.06287), which attend to what the words name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

LocatedHeads = Sequence[tuple[int, int]]  # (layer, head), from 0
SHARE = 0.9  # of all the weight: what the given heads start with together


class HeadWeights(nn.Module):
    """A soft-max over the heads of the first layer, or of several layers where heads of those are given: positive, and
    of sum 1, so that a map stays a probability.

    The given heads start with equal weights of sum SHARE, and all others with equal weights; without given heads, all
    weights of the first layer are equal, and the weighted sum is the mean."""

    def __init__(self, heads: int, given: LocatedHeads = ()):
        super().__init__()
        layers = max((layer for layer, _ in given), default=0) + 1
        start = torch.zeros(layers, heads)
        others = start.numel() - len(given)
        for layer, head in given:
            start[layer, head] = torch.tensor(SHARE / len(given) / ((1 - SHARE) / others)).log() if others else 0.0
        self.logits = nn.Parameter(start)

    @property
    def layers(self) -> int:
        """Of how many layers it needs the attention, counted from the first."""
        return len(self.logits)

    @property
    def weights(self) -> Float[Tensor, "l n"]:
        return self.logits.flatten().softmax(0).view_as(self.logits)

    def forward(self, attention: Sequence[Float[Tensor, "b n t i"]]) -> Float[Tensor, "b t i"]:
        """The weighted sum over the heads of all layers, in fp32 (under autocast, too: the map must not be rounded)."""
        with torch.autocast(attention[0].device.type, enabled=False):
            sums = [torch.einsum("n,bnti->bti", *pair) for pair in zip(self.weights, attention, strict=True)]
        return torch.stack(sums).sum(0)


def copied_heads(heads: LocatedHeads, layers: Sequence[int], width: int) -> LocatedHeads:
    """Heads of an MLLM as heads of the copies of its `layers`, with `width` heads each.

    Raises ValueError for a head that these do not have."""
    if outside := [pair for pair in heads if pair[0] not in layers or pair[1] >= width]:
        raise ValueError(
            f"LENS got the heads {outside} (layer, head); it reads layer {layers[0]} here and computes the attention "
            f"of layers {' and '.join(map(str, layers))}, with {width} heads each: give heads of these, or read "
            "another layer"
        )
    return [(layers.index(number), head) for number, head in heads]
