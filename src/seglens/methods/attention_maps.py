"""Maps of attention heads: which heads point at a thing, how their maps are joined, and the region around a peak."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seglens.core.types import HeadMaps

TINY = 1e-12
FINER = 4  # samples of a cell along a side, between which the edge of a region is drawn


def maps_and_masses(read: HeadMaps) -> tuple[Float[Tensor, "b q k h w"], Float[Tensor, "b q k"]]:
    """The maps of all heads of all layers in a row, nothing on padding, and the attention that each pays to the image
    tokens."""
    maps = rearrange(read.maps, "b l n q h w -> b q (l n) h w").float()
    return maps * read.inside[:, None, None], maps.flatten(3).sum(-1)


def choose(
    maps: Float[Tensor, "b q k h w"], mass: Float[Tensor, "b q k"], width: int, count: int, first_layer: int
) -> Int[Tensor, "b q c"]:
    """The `count` heads of each query, `width` in a layer, whose map has the lowest entropy, -Σ p log p over its cells,
    among those that attend to the image: with a mass from the elbow of the sorted masses up.

    The paper takes the entropy over the connected regions of the map above its mean, and counts over 1,000 queries
    which heads are chosen most often; here single cells are counted, and a query may choose by itself."""
    share = maps.flatten(3) / maps.flatten(3).sum(-1, keepdim=True).clamp(min=TINY)
    entropy = -(share * share.clamp(min=TINY).log()).sum(-1)
    layer = torch.arange(mass.shape[2], device=mass.device) // width
    known = (mass > 0).flatten(0, 1).any(0)  # the others are in layers without attention
    attends = (mass >= elbow(mass[..., known])[..., None]) & known & (layer >= first_layer)
    # the others come last, the greatest mass first: so there are always enough
    rank = torch.where(attends, entropy, entropy.amax() + 2 - mass - (layer >= first_layer).to(mass))
    return rank.topk(min(count, mass.shape[2]), largest=False).indices


def elbow(values: Float[Tensor, "*n k"]) -> Float[Tensor, "*n"]:
    """Of the values in rising order, the one farthest from the straight line between the least and the greatest: where
    a few large ones begin."""
    rising = values.sort(-1).values
    along = torch.linspace(0, 1, values.shape[-1], device=values.device, dtype=values.dtype)
    first, last = rising[..., :1], rising[..., -1:]
    return rising.gather(-1, (first + along * (last - first) - rising).abs().argmax(-1, keepdim=True))[..., 0]


def blurred(maps: Float[Tensor, "b q h w"], deviation: float) -> Float[Tensor, "b q h w"]:
    """Smoothed by a Gaussian of `deviation` cells, cut off at three deviations; the map is 0 beyond its border."""
    if deviation <= 0:
        return maps
    reach = math.ceil(3 * deviation)
    steps = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = (-0.5 * (steps / deviation).square()).exp()
    kernel = kernel / kernel.sum()
    flat = rearrange(maps, "b q h w -> (b q) 1 h w")
    flat = F.conv2d(flat, kernel[None, None, :, None], padding=(reach, 0))
    flat = F.conv2d(flat, kernel[None, None, None], padding=(0, reach))
    return rearrange(flat, "(b q) 1 h w -> b q h w", b=len(maps))


def resized(maps: Float[Tensor, "b q h w"], size: tuple[int, int]) -> Float[Tensor, "b q y x"]:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def peak_box(maps: Float[Tensor, "n h w"], share: float) -> Float[Tensor, "n 4"]:
    """On the canvas [0, 1], the box of the region around each map's peak where it has at least `share` of the peak."""
    h, w = (FINER * size for size in maps.shape[1:])
    fine = resized(maps[:, None], (h, w))[:, 0]
    region = peak_region(fine, share)
    columns, rows = region.any(1), region.any(2)
    first = [side.to(maps).argmax(-1) / side.shape[-1] for side in (columns, rows)]
    last = [1 - side.to(maps).flip(-1).argmax(-1) / side.shape[-1] for side in (columns, rows)]
    return torch.stack([*first, *last], -1)


def peak_region(maps: Float[Tensor, "n h w"], share: float) -> Bool[Tensor, "n h w"]:
    """The cells around each map's peak, also across corners, that have at least `share` of it; grown cell by cell."""
    peak, cell = maps.flatten(1).max(-1)
    high = maps >= share * peak[:, None, None]
    region = F.one_hot(cell, maps[0].numel()).bool().reshape(maps.shape)
    while True:
        grown = (F.max_pool2d(region.to(maps)[:, None], 3, stride=1, padding=1)[:, 0] > 0) & high
        if torch.equal(grown, region):
            return region
        region = grown
