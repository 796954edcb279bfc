"""Of the masks that a promptable mask decoder draws, those that attention heads agree with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seglens.methods.attention_maps import TINY


@dataclass(frozen=True)
class Agreement:
    """How each of `m` masks of `q` queries agrees with the maps of the attention.

    `similarity`: the geometric mean of its cosines with the heads' maps (up to a factor of the query), times its
    stability as in SAM, the area at a logit of 1 over that at -1. `density`: the attention on its pixels, for a query
    for one thing the geometric mean over the heads, which all have to attend to it, and for several things that of the
    map of all heads, which may share the things among them."""

    similarity: Float[Tensor, "q m"]
    density: Float[Tensor, "q m"]
    inside: Float[Tensor, "q m s s"]

    @classmethod
    def of(
        cls,
        masks: Float[Tensor, "q m s s"],
        heads: Float[Tensor, "q c s s"],
        heat: Float[Tensor, "q s s"],
        several: Bool[Tensor, " q"],
    ) -> Agreement:
        inside = (masks > 0).to(heat)
        area = inside.sum((2, 3)).clamp(min=1)
        in_heads = torch.einsum("q m y x, q c y x -> q m c", inside, heads)
        agreed = in_heads.clamp(min=TINY).log().mean(-1).exp()
        overall = torch.einsum("q m y x, q y x -> q m", inside, heat)
        stable = (masks > 1).sum((2, 3)) / (masks > -1).sum((2, 3)).clamp(min=1)
        density = torch.where(several[:, None], overall, agreed) / area
        return cls(stable * agreed / area.sqrt(), density, inside)

    def chosen(
        self, drawn: Bool[Tensor, "q m"], join: Float[Tensor, " q"], overlap: Float[Tensor, " q"]
    ) -> Bool[Tensor, "q m"]:
        """Of every query the most similar mask, with those of at least `join` of its density that lie in the masks
        before them with at most `overlap` of their pixels. All queries at once; the masks one after the other, since
        each is compared with the union so far."""
        query = torch.arange(len(drawn), device=drawn.device)
        best = self.similarity.masked_fill(~drawn, -1).argmax(1)
        area, union = self.inside.sum((2, 3)).clamp(min=1), self.inside[query, best]
        least = join * self.density[query, best]
        chosen = torch.zeros_like(drawn)
        chosen[query, best] = True
        for k in range(drawn.shape[1]):
            covered = (self.inside[:, k] * union).sum((1, 2)) / area[:, k]
            more = drawn[:, k] & ~chosen[:, k] & (self.density[:, k] >= least) & (covered <= overlap)
            chosen[:, k] |= more
            union = torch.where(more[:, None, None], torch.maximum(union, self.inside[:, k]), union)
        return chosen


def centres(inside: Bool[Tensor, "n s s"]) -> Float[Tensor, "n 2"]:
    """The pixel of each mask, none empty, that lies nearest to its centre of gravity: on the canvas [0, 1], (x, y)."""
    steps = (torch.arange(inside.shape[-1], device=inside.device) + 0.5) / inside.shape[-1]
    pixels = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
    weight = inside.to(pixels)
    middle = torch.einsum("n y x, y x d -> n d", weight, pixels) / weight.sum((1, 2))[:, None]
    far = (pixels - middle[:, None, None]).square().sum(-1).masked_fill(~inside, torch.inf)
    return pixels.flatten(0, 1)[far.flatten(1).argmin(1)]
