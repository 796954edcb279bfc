"""Space to depth and back, in InternVL's order (its `ps_version` v2): the vectors of a block of factor x factor pixels
joined end to end, row by row. All maps are channel-last, after any leading axes.

A map that keeps its size can be given that width in two ways, for a projector that expects shuffled features: every
pixel repeated (`replicate`) or shuffled at stride 1 (`scan`), as SELF1E compares them (arXiv 2603.19026, appendix 8.3).
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Shaped
from torch import Tensor


def pixel_shuffle(x: Shaped[Tensor, "*b h w c"], factor: int) -> Shaped[Tensor, "*b _ _ _"]:
    """A map of h / factor x w / factor pixels, factor ** 2 times as wide."""
    return rearrange(x, "... (h u) (w v) c -> ... h w (u v c)", u=factor, v=factor)


def pixel_unshuffle(x: Shaped[Tensor, "*b h w c"], factor: int) -> Shaped[Tensor, "*b _ _ _"]:
    """The inverse of `pixel_shuffle`: a map of h * factor x w * factor pixels, of 1 / factor ** 2 the width."""
    return rearrange(x, "... h w (u v c) -> ... (h u) (w v) c", u=factor, v=factor)


def replicate(x: Shaped[Tensor, "*b h w c"], factor: int) -> Shaped[Tensor, "*b h w _"]:
    """Every pixel repeated as a block of equal ones: `pixel_shuffle` of the map enlarged `factor` times (nearest)."""
    return repeat(x, "... h w c -> ... h w (k c)", k=factor**2)


def scan(x: Shaped[Tensor, "*b h w c"], factor: int) -> Shaped[Tensor, "*b h w _"]:
    """All blocks of factor x factor neighbours within the map, resized bilinearly to its size, as in the released code;
    the paper does not describe how blocks at the border are filled."""
    *batch, h, w, _ = x.shape
    blocks = rearrange(x.unfold(-3, factor, 1).unfold(-3, factor, 1), "... h w c u v -> ... (u v c) h w")
    planes = F.interpolate(blocks.reshape(-1, *blocks.shape[-3:]), (h, w), mode="bilinear", align_corners=False)
    return rearrange(planes, "n c h w -> n h w c").reshape(*batch, h, w, -1)
