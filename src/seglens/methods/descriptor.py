"""The descriptor model of LENS (arXiv 2510.16785, Eq. 3, S1.3 and Fig. S1)."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Descriptor(nn.Module):
    """Is the region around each keypoint what the question means? Cross-attention, self-attention, projection.

    The paper gives these three parts; widths, norms and the MLPs are those of the released code."""

    def __init__(self, width: int, heads: int, feed_forward: int, encoder_width: int, out: int):
        super().__init__()
        heads = max(n for n in range(1, heads + 1) if width % n == 0)  # an MLLM's may be wider than their share
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_cross, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, feed_forward), nn.GELU(), nn.Linear(feed_forward, width))
        self.mix = nn.TransformerEncoderLayer(width, heads, encoder_width, batch_first=True)
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))

    def forward(
        self, f_s: Float[Tensor, "n d"], near: Float[Tensor, "n m k d"], keep: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n m1 c"]:
        """Eq. 3: D of f_s^2, the k features d_N(i) around each keypoint, and which keypoints count; f_s^2 comes first.

        {d_i} ← Cross-attn(f_s^2, {d_N(i)}),   D ← Self-attn({f_s^2} ∪ {d_i}),   projected to d_s, SAM's width c."""
        n, m = keep.shape
        query = repeat(f_s, "n d -> (n m) 1 d", m=m)
        near = rearrange(near, "n m k d -> (n m) k d")
        d = self.norm_cross(query + self.cross(query, near, near, need_weights=False)[0])
        d = self.norm_mlp(d + self.mlp(d))
        tokens = torch.cat([f_s[:, None], rearrange(d, "(n m) 1 d -> n m d", n=n)], 1)
        padding = torch.cat([torch.zeros_like(keep[:, :1]), ~keep], 1)
        return self.project(self.mix(tokens, src_key_padding_mask=padding))
