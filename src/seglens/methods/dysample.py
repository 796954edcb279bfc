"""DySample: up-sampling by moving the points at which a map is read (arXiv 2308.15085)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class DySample(nn.Module):
    """Every fine cell reads the coarse map, bilinearly, at its own centre plus a learnt offset.

    The paper's first variant: linear layer, then pixel-shuffle ("lp"), with the static scope factor. `groups` of
    channels are moved each by its own offsets."""

    SCOPE = 0.25  # in coarse cells: points moved by less than 1 do not pass their neighbours

    def __init__(self, width: int, scale: int, groups: int):
        super().__init__()
        self.scale, self.groups = scale, groups
        self.offset = nn.Conv2d(width, 2 * groups * scale**2, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c _ _"]:
        (n, _, h, w), s, g = x.shape, self.scale, self.groups
        # whole cells and offsets far below one: half precision holds not both
        wide = torch.promote_types(x.dtype, torch.float32)
        offset = rearrange(
            self.SCOPE * self.offset(x).to(wide), "n (xy g i j) h w -> (n g) (h i) (w j) xy", xy=2, g=g, i=s, j=s
        )
        column, row = ((torch.arange(side * s, device=x.device, dtype=wide) + 0.5) / s for side in (w, h))
        centres = torch.stack(torch.meshgrid(column, row, indexing="xy"), -1)
        points = 2 * (centres + offset) / centres.new_tensor([w, h]) - 1
        parts = rearrange(x, "n (g c) h w -> (n g) c h w", g=g).to(wide)
        fine = F.grid_sample(parts, points, mode="bilinear", padding_mode="border", align_corners=False)
        return rearrange(fine, "(n g) c h w -> n (g c) h w", n=n).to(x.dtype)
