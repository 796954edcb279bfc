"""DySample against a loop over points."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seglens.methods.dysample import DySample

TOLERANCE = 1e-5  # of values of about 1; measured: 9.5e-7


def bilinear(plane: Tensor, x: float, y: float) -> Tensor:
    """A plane (c h w) at cell coordinates, where integer i is the centre of cell i; clamped at the border."""
    height, width = plane.shape[1:]
    x, y = min(max(x, 0.0), width - 1), min(max(y, 0.0), height - 1)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    dx, dy = x - left, y - top
    upper = (1 - dx) * plane[:, top, left] + dx * plane[:, top, left + 1]
    lower = (1 - dx) * plane[:, top + 1, left] + dx * plane[:, top + 1, left + 1]
    return (1 - dy) * upper + dy * lower


def by_hand(module: DySample, x: Tensor) -> Tensor:
    """The paper's Eq. 4 to 6 point by point: offset, times the scope, onto the fine cell's own centre; then a read."""
    (n, c, h, w), s, g = x.shape, module.scale, module.groups
    offset = 0.25 * F.conv2d(x, module.offset.weight, module.offset.bias)
    out = torch.zeros(n, c, h * s, w * s)
    for b in range(n):
        for group in range(g):
            channels = slice(group * c // g, (group + 1) * c // g)
            for row in range(h * s):
                for column in range(w * s):
                    part = (row % s) * s + column % s  # pixel-shuffle: a channel for each part of a coarse cell
                    across, down = (
                        float(offset[b, (axis * g + group) * s * s + part, row // s, column // s]) for axis in (0, 1)
                    )
                    at = (column + 0.5) / s - 0.5 + across, (row + 0.5) / s - 0.5 + down
                    out[b, channels, row, column] = bilinear(x[b, channels], *at)
    return out


@torch.no_grad()
@pytest.mark.parametrize(("scale", "groups"), [(2, 4), (2, 1), (3, 2)])
def test_each_point_moves_by_its_own_offset(scale: int, groups: int) -> None:
    torch.manual_seed(0)
    module, x = DySample(8, scale, groups), torch.randn(2, 8, 3, 4)
    module.offset.weight.mul_(4)  # points of neighbouring cells, and beyond the border
    expected = by_hand(module, x)
    assert (module(x) - expected).abs().max() < TOLERANCE
    module.offset.bias.roll(1)
    module.offset.bias.copy_(module.offset.bias.roll(1))
    assert (module(x) - expected).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_without_offsets_it_is_bilinear() -> None:
    module, x = DySample(8, 2, 4), torch.randn(2, 8, 5, 3, generator=torch.Generator().manual_seed(1))
    for parameter in module.parameters():
        parameter.zero_()
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    assert (module(x) - expected).abs().max() < TOLERANCE


@torch.no_grad()
def test_half_precision_keeps_the_points() -> None:
    """Coordinates of a wide map would be rounded to whole cells."""
    module, x = DySample(4, 2, 1), torch.zeros(1, 4, 2, 160)
    for parameter in module.parameters():
        parameter.zero_()
    x[..., 1::2] = 1  # the quarter points between cells show a coordinate's error
    exact, half = module(x), module.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 2**-8
