"""Space to depth and back, against loops over pixels and against InternVL itself: moved numbers, so no error at all."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import EinopsError
from torch import Tensor
from transformers.models.internvl.modeling_internvl import InternVLModel

from seglens.core.pixel_shuffle import pixel_shuffle, pixel_unshuffle, replicate, scan
from stretched import slow_bilinear

SIZES = [((4, 6), 2), ((6, 3), 3), ((5, 2), 1)]


def numbered(h: int, w: int, c: int = 3, b: int = 2) -> Tensor:
    """No two values alike."""
    return torch.arange(b * h * w * c, dtype=torch.float32).reshape(b, h, w, c)


@pytest.mark.parametrize(("size", "factor"), SIZES)
def test_a_block_is_laid_end_to_end_row_by_row(size: tuple[int, int], factor: int) -> None:
    x = numbered(*size)
    shuffled = pixel_shuffle(x, factor)
    assert shuffled.shape == (2, size[0] // factor, size[1] // factor, 3 * factor**2)
    for i in range(shuffled.shape[1]):
        for j in range(shuffled.shape[2]):
            block = [x[:, factor * i + u, factor * j + v] for u in range(factor) for v in range(factor)]
            assert torch.equal(shuffled[:, i, j], torch.cat(block, -1))


@pytest.mark.parametrize("size", [(4, 4), (4, 6), (32, 32)])
def test_the_order_is_internvls(size: tuple[int, int]) -> None:
    x = numbered(*size)
    assert torch.equal(pixel_shuffle(x, 2), InternVLModel.pixel_shuffle(None, x, 0.5))  # its `self` is not used


@pytest.mark.parametrize(("size", "factor"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_there_and_back(size: tuple[int, int], factor: int, dtype: torch.dtype) -> None:
    x = numbered(*size, c=5).to(dtype)
    assert torch.equal(pixel_unshuffle(pixel_shuffle(x, factor), factor), x)
    deep = numbered(*size, c=2 * factor**2).to(dtype)
    assert torch.equal(pixel_shuffle(pixel_unshuffle(deep, factor), factor), deep)


@pytest.mark.parametrize(("size", "factor"), SIZES)
def test_replicas_are_the_nearest_enlargement_shuffled(size: tuple[int, int], factor: int) -> None:
    x = numbered(*size)
    large = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=factor, mode="nearest").permute(0, 2, 3, 1)
    assert torch.equal(replicate(x, factor), pixel_shuffle(large, factor))


@pytest.mark.parametrize(("size", "factor"), SIZES)
def test_a_scan_is_of_the_blocks_within_the_map(size: tuple[int, int], factor: int) -> None:
    """By loops: a block at every place where one fits, and their map stretched to the size of the whole."""
    x = numbered(*size)
    scanned, (h, w) = scan(x, factor), size
    assert scanned.shape == (2, h, w, 3 * factor**2)
    fits = torch.zeros(2, 3 * factor**2, h - factor + 1, w - factor + 1)
    for y in range(h - factor + 1):
        for z in range(w - factor + 1):
            fits[:, :, y, z] = torch.cat([x[:, y + u, z + v] for u in range(factor) for v in range(factor)], -1)
    for n in range(2):
        for c in range(3 * factor**2):
            slow = slow_bilinear(fits[n, c].numpy(), (h, w))
            torch.testing.assert_close(scanned[n, :, :, c], torch.as_tensor(slow, dtype=x.dtype), rtol=1e-5, atol=1e-4)


def test_leading_axes_are_left_alone() -> None:
    x = numbered(4, 6, c=8, b=6)
    for change in (pixel_shuffle, pixel_unshuffle, replicate, scan):
        apart = change(x.reshape(2, 3, 4, 6, 8), 2)
        assert torch.equal(apart.flatten(0, 1), change(x, 2))
        assert torch.equal(apart[1, 2], change(x[5], 2))


def test_a_map_that_has_no_whole_blocks() -> None:
    with pytest.raises(EinopsError):
        pixel_shuffle(numbered(4, 5), 2)
