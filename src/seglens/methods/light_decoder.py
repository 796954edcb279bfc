"""The light-weight mask decoder of MLLMSeg (arXiv 2508.04107): fusion of image features, one block that attends to the
[SEG] state, and a head that draws.

Its steps are named A (detail), B (semantic) and C (condition) here; details are those of the released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from seglens.methods.base import check_numbers
from seglens.methods.dysample import DySample

EMPTY = -0.5  # logit of a pixel whose channels are all 0, where the last filter starts positive


@dataclass(frozen=True)
class DecoderConfig:
    """Every choice of the mask decoder."""

    width: int = 1024  # of the decoder
    heads: int = 8
    feed_forward: int = 1024
    decoder_dropout: float = 0.1
    groups: int = 4  # of channels that DySample moves together
    subpixels: int = 14  # a side of what the head draws for each patch
    norm: Literal["group", "batch"] = "group"  # batch (authors) depends on what else is in a pass, padding included
    # not the authors': the last filter starts positive, so that masks rise where channels are active. With random signs
    # (authors) that depends on the seed; where they do not, the bias alone must lift masks above 0, at one rate a step
    upright: bool = True
    detail: bool = True  # step A among the sources of DSFF; False is an ablation, as in the next two
    raw: bool = True  # the patches of the vision tower
    semantic: bool = True  # step B

    def _check_decoder(self) -> None:
        counts = ("width", "heads", "feed_forward", "subpixels", "groups")
        check_numbers(self, "MLLMSeg", "a whole number above 0", *counts)
        check_numbers(self, "MLLMSeg", "a number from 0 to 1", "decoder_dropout")
        for name in ("heads", "groups"):
            if self.width % getattr(self, name):
                raise ValueError(
                    f"MLLMSeg got width={self.width}; it must be a multiple of {name}={getattr(self, name)}"
                )
        if not self.sources:
            raise ValueError("MLLMSeg got detail, raw and semantic switched off; leave at least one of them on")

    @property
    def sources(self) -> tuple[str, ...]:
        """The maps that DSFF fuses, in the order in which they are joined."""
        return tuple(name for name in ("detail", "raw", "semantic") if getattr(self, name))


class Block(nn.Module):
    """A transformer decoder layer with a norm after each part, without positions, and a last norm.

    In two steps, because the self-attention does not depend on the memory that is attended to."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float):
        super().__init__()
        self.own = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.other = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.expand, self.shrink = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.dropout = nn.Dropout(dropout)
        for part in (self.expand, self.shrink):
            nn.init.zeros_(part.bias)

    def self_attend(self, x: Float[Tensor, "n f c"]) -> Float[Tensor, "n f c"]:
        """Tokens attend to each other."""
        return self.norms[0](x + self.dropout(self.own(x, x, x, need_weights=False)[0]))

    def cross_attend(self, x: Float[Tensor, "n f c"], memory: Float[Tensor, "n m c"]) -> Float[Tensor, "n f c"]:
        """Tokens, after `self_attend`, attend to `memory`; then the MLP."""
        x = self.norms[1](x + self.dropout(self.other(x, memory, memory, need_weights=False)[0]))
        x = self.norms[2](x + self.dropout(self.shrink(self.dropout(F.relu(self.expand(x))))))
        return self.norms[3](x)


def make_block(config: DecoderConfig) -> Block:
    return Block(config.width, config.heads, config.feed_forward, config.decoder_dropout)


class MaskHead(nn.Module):
    """Each patch's pixels from its channels, then one filter across the borders of patches."""

    def __init__(self, width: int, subpixels: int, norm: str):
        super().__init__()
        channels = subpixels**2
        self.subpixels = subpixels
        self.conv = nn.Conv2d(width, channels, 3, padding=1)
        self.norm = (
            nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(subpixels * gcd(2, subpixels), channels)
        )
        self.smooth = nn.Conv2d(1, 1, 5, padding=2)

    def upright(self) -> None:
        """Start with an empty mask that rises where channels are active."""
        assert self.smooth.bias is not None
        with torch.no_grad():
            self.smooth.weight.abs_()
            self.smooth.bias.fill_(EMPTY)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n _ _"]:
        x = F.relu(self.norm(self.conv(x)))
        pixels = rearrange(x, "n (i j) h w -> n 1 (h i) (w j)", i=self.subpixels, j=self.subpixels)
        return self.smooth(pixels)[:, 0]


class Fusion(nn.Module):
    """DSFF, the detail-enhanced and semantic-consistent feature fusion, of states of width d and patches of width v.

    In the paper the fusion has the width of the patches; where it has another, a linear layer takes them to it.

    A = Block(F_v, F_l),   B = DySample(F_l),   F = W [A; F_v; B],   of patches F_v and projected image states F_l."""

    def __init__(self, config: DecoderConfig, d: int, v: int, shuffle: int):
        super().__init__()
        c = config.width
        self.image = nn.Linear(d, c) if config.detail or config.semantic else None
        self.patches = nn.Linear(v, c) if v != c else nn.Identity()
        self.enhance = make_block(config) if config.detail else None
        self.upsample = self._upsample(config, shuffle) if config.semantic else None
        self.raw = config.raw
        self.join = nn.Linear(len(config.sources) * c, c)

    @staticmethod
    def _upsample(config: DecoderConfig, shuffle: int) -> nn.Module:
        return DySample(config.width, shuffle, config.groups) if shuffle > 1 else nn.Identity()

    def forward(
        self, patches: Float[Tensor, "n f v"], image: Float[Tensor, "n i d"], grid: tuple[int, int]
    ) -> Float[Tensor, "n f c"]:
        patches, sources = self.patches(patches), list[Tensor]()
        image = image if self.image is None else self.image(image)
        if self.enhance is not None:  # step A
            sources.append(self.enhance.cross_attend(self.enhance.self_attend(patches), image))
        if self.raw:
            sources.append(patches)
        if self.upsample is not None:  # step B
            fine = self.upsample(rearrange(image, "n (h w) c -> n c h w", h=grid[0]))
            sources.append(rearrange(fine, "n c h w -> n (h w) c"))
        return self.join(torch.cat(sources, -1))


class LightDecoder(nn.Module):
    """The mask decoder, 34 M parameters at the widths of InternVL2.5-8B."""

    def __init__(self, config: DecoderConfig, d: int, v: int, shuffle: int):
        super().__init__()
        self.fuse = Fusion(config, d, v, shuffle)
        self.segment = nn.Linear(d, config.width)
        self.condition = make_block(config)
        self.head = MaskHead(config.width, config.subpixels, config.norm)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        if config.upright:
            self.head.upright()

    def precompute(
        self, patches: Float[Tensor, "b f v"], image: Float[Tensor, "b r i d"], grid: tuple[int, int]
    ) -> Float[Tensor, "b r f c"]:
        """The fused patches after their self-attention in step C."""
        dtype, r = self.segment.weight.dtype, image.shape[1]
        patches = repeat(patches.to(dtype), "b f v -> (b r) f v", r=r)
        fused = self.fuse(patches, rearrange(image, "b r i d -> (b r) i d").to(dtype), grid)
        return rearrange(self.condition.self_attend(fused), "(b r) f c -> b r f c", r=r)

    def forward(
        self, fused: Float[Tensor, "b r f c"], segment: Float[Tensor, "b q k d"], rows: int
    ) -> Float[Tensor, "b q _ _"]:
        """Step C and the head:  F' = Block(F, h_seg),   mask = Head(F'),   as logits. The patches lie in `rows` rows; r
        is q or 1."""
        b, q = segment.shape[:2]
        patches = rearrange(fused.expand(-1, q, -1, -1), "b q f c -> (b q) f c")
        memory = self.segment(rearrange(segment, "b q k d -> (b q) k d").to(fused.dtype))
        patches = self.condition.cross_attend(patches, memory)  # step C
        logits = self.head(rearrange(patches, "n (h w) c -> n c h w", h=rows))
        return rearrange(logits, "(b q) h w -> b q h w", b=b)
