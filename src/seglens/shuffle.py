"""Space to depth and back, in InternVL's order (its `ps_version` v2): the vectors of a block of factor x factor pixels
laid end to end, row by row. All maps are channel-last, behind any leading axes.

A map that keeps its size can be given that width in two ways, for a projector that expects shuffled features: every
pixel repeated (`replicate`) or shuffled at stride 1 (`scan`), as SELF1E compares them (arXiv 2603.19026, appendix 8.3).
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Shaped
from torch import Tensor


def pixel_shuffle(x: Shaped[Tensor, "*b h w c"], factor: int) -> Shaped[Tensor, "*b _ _ _"]:
    """A map of h / factor x w / factor pixels, factor ** 2 times as wide."""
    return rearrange(x, "... (h u) (w v) c -> ... h w (u v c)", u=factor, v=factor)


def pixel_unshuffle(x: Shaped[Tensor, "*b h w c"], factor: int) -> Shaped[Tensor, "*b _ _ _"]:
    """What `pixel_shuffle` undoes: a map of h * factor x w * factor pixels, of 1 / factor ** 2 the width."""
    return rearrange(x, "... h w (u v c) -> ... (h u) (w v) c", u=factor, v=factor)


def replicate(x: Shaped[Tensor, "*b h w c"], factor: int) -> Shaped[Tensor, "*b h w _"]:
    """Every pixel in place of a block of its likes: what `pixel_shuffle` says of the map enlarged, nearest, `factor`
    times."""
    return repeat(x, "... h w c -> ... h w (k c)", k=factor**2)


def scan(x: Shaped[Tensor, "*b h w c"], factor: int) -> Shaped[Tensor, "*b h w _"]:
    """The block of factor x factor pixels whose top left each pixel is, so that every factor-th row and column is
    `pixel_shuffle`. At the bottom and the right the border is repeated: the paper does not say how it fills a block
    there."""
    h, w = x.shape[-3:-1]
    step = torch.arange(factor, device=x.device)
    rows, columns = ((torch.arange(n, device=x.device)[:, None] + step).clamp(max=n - 1) for n in (h, w))
    return rearrange(x[..., rows, :, :][..., columns, :], "... h u w v c -> ... h w (u v c)")
