"""The map between image, canvas and cells, on any aspect ratio."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seglens.core.geometry import Frame

lays = st.sampled_from(["letterbox", "squash"])
frames = st.builds(Frame, st.integers(1, 5000), st.integers(1, 5000), lays)
small_frames = st.builds(Frame, st.integers(1, 60), st.integers(1, 60), lays)
grids = st.tuples(st.integers(1, 64), st.integers(1, 64))
quick = settings(deadline=None, database=None, max_examples=60)


@quick
@given(frames, grids, st.data())
def test_one_pixel_there_and_back(frame: Frame, grid: tuple[int, int], data: st.DataObject) -> None:
    pixel = (data.draw(st.integers(0, frame.width - 1)), data.draw(st.integers(0, frame.height - 1)))
    point = torch.tensor(pixel).double() + 0.5
    canvas = frame.to_canvas(point)
    cell = canvas * torch.tensor(grid[::-1]) - 0.5
    back = frame.to_image(frame.cells_to_canvas(cell, grid))
    assert (canvas >= 0).all()
    assert (canvas <= 1).all()
    assert torch.allclose(back, point, atol=1e-9, rtol=0)
    assert tuple(back.floor().int().tolist()) == pixel
    # The nearest integer cell is the one that holds the point.
    assert cell.round().tolist() == pytest.approx((canvas * torch.tensor(grid[::-1])).ceil().sub(1).tolist(), abs=1)


def test_known_coordinates() -> None:
    frame = Frame(height=50, width=100)
    assert frame.side == 100
    assert frame.to_canvas(torch.tensor([100.0, 50.0])).tolist() == [1.0, 0.5]
    assert frame.to_image(torch.tensor([[0.25, 0.5]])).tolist() == [[25.0, 50.0]]
    assert frame.cells_to_canvas(torch.tensor([0.0, 3.0]), (4, 10)).tolist() == pytest.approx([0.05, 0.875])


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (-1, 5)])
def test_empty_frame_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=rf"{height} x {width}.*at least 1 x 1"):
        Frame(height, width)


@quick
@given(frames, st.integers(1, 1024))
def test_content_is_sams_rounding(frame: Frame, size: int) -> None:
    height, width = frame.content(size)
    if frame.lay == "squash":
        assert (height, width) == (size, size)
        return
    assert max(height, width) == size
    assert height == max(1, int(frame.height * size / frame.side + 0.5 + 1e-9))
    assert width == max(1, int(frame.width * size / frame.side + 0.5 + 1e-9))


def test_letterbox_places_and_fills() -> None:
    image = torch.full((30, 60, 3), 200, dtype=torch.uint8)
    canvas = Frame(30, 60).render(image, 20, (1.0, 2.0, 3.0))
    assert torch.allclose(canvas[:, :10], torch.tensor(200.0), atol=1e-3)
    assert canvas[:, 10:].unique(dim=1).squeeze().tolist() == [[1.0] * 20, [2.0] * 20, [3.0] * 20]


def test_letterbox_keeps_pixels_at_equal_size_and_averages_when_shrinking() -> None:
    image = torch.randint(256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Frame(8, 8).render(image, 8, (0.0, 0.0, 0.0)), image.permute(2, 0, 1).float())
    stripes = (torch.arange(64) % 2 * 255).to(torch.uint8)[None, :, None].expand(64, 64, 3)
    shrunk = Frame(64, 64).render(stripes, 8, (0.0, 0.0, 0.0))
    assert (shrunk - 127.5).abs().max() < 5  # without antialiasing it would be 0 or 255


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1)])
def test_letterbox_of_a_strip_keeps_one_pixel(shape: tuple[int, int]) -> None:
    canvas = Frame(*shape).render(torch.full((*shape, 3), 255, dtype=torch.uint8), 16, (0.0, 0.0, 0.0))
    assert (canvas > 0).sum() == 3 * 16


def test_arrays_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 x 6.*6 x 4.*its own size"):
        Frame(4, 6).render(torch.zeros(6, 4, 3, dtype=torch.uint8), 8, (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="its own size"):
        Frame(4, 6).to_canvas_mask(torch.zeros(2, 6, 4, dtype=torch.bool), 8)


@quick
@given(small_frames, st.integers(1, 70), st.integers(0, 2**31 - 1))
def test_canvas_mask_conserves_area(frame: Frame, size: int, seed: int) -> None:
    mask = torch.rand(3, frame.height, frame.width, generator=torch.Generator().manual_seed(seed)) < 0.4
    soft = frame.to_canvas_mask(mask, size)
    area = soft.double().sum((-2, -1)) * math.prod(frame.extent) / size**2
    assert torch.allclose(area, mask.sum((-2, -1)).double(), rtol=1e-5, atol=1e-3)
    assert soft.min() >= 0
    assert soft.max() <= 1
    assert torch.allclose(frame.to_canvas_mask(mask[0], size), soft[0], atol=1e-6)


def test_a_squashed_canvas_by_hand() -> None:
    frame = Frame(height=50, width=100, lay="squash")
    assert frame.extent == (50, 100)
    assert frame.to_canvas(torch.tensor([100.0, 25.0])).tolist() == [1.0, 0.5]
    assert frame.to_image(torch.tensor([[0.25, 0.5]])).tolist() == [[25.0, 25.0]]
    # 2 x 3 pixels on 2 x 2 cells: each is a pixel high and a pixel and a half wide
    mask = torch.tensor([[1, 0, 0], [0, 1, 1]]).bool()
    expected = torch.tensor([[1 / 1.5, 0], [0.5 / 1.5, 1]])
    assert torch.allclose(Frame(2, 3, "squash").to_canvas_mask(mask, 2), expected)
    canvas = Frame(30, 60, "squash").render(torch.full((30, 60, 3), 200, dtype=torch.uint8), 20, (1.0, 2.0, 3.0))
    assert torch.allclose(canvas, torch.tensor(200.0), atol=1e-3)  # there is no padding


def test_canvas_mask_by_hand() -> None:
    # 2 x 3 pixels on a 2 x 2 canvas of side 3: each cell covers 1.5 x 1.5 pixels.
    mask = torch.tensor([[1, 0, 0], [0, 0, 1]]).bool()
    expected = torch.tensor([[1 / 2.25, 0.5 / 2.25], [0, 0.5 / 2.25]])
    assert torch.allclose(Frame(2, 3).to_canvas_mask(mask, 2), expected)
    assert torch.equal(Frame(4, 4).to_canvas_mask(torch.eye(4).bool(), 4), torch.eye(4))


@quick
@given(small_frames, st.integers(2, 40))
def test_image_logits_of_a_ramp_are_the_pixel_centres(frame: Frame, size: int) -> None:
    column = torch.arange(size).double()
    cells = torch.stack(torch.meshgrid(column, column, indexing="xy"), -1)
    centres = Frame.cells_to_canvas(cells, (size, size))
    logits = frame.to_image_logits(centres.permute(2, 0, 1).contiguous())
    y, x = torch.meshgrid(torch.arange(frame.height), torch.arange(frame.width), indexing="ij")
    pixels = frame.to_canvas(torch.stack([x, y]).permute(1, 2, 0) + 0.5).permute(2, 0, 1).double()
    # Beyond the outer cell centres the border value holds.
    assert torch.allclose(logits, pixels.clamp(0.5 / size, 1 - 0.5 / size), atol=1e-6)


@pytest.mark.parametrize("lay", ["letterbox", "squash"])
@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (64, 64), (37, 91)])
def test_mask_to_canvas_and_back(shape: tuple[int, int], lay: Any) -> None:
    frame, mask = Frame(*shape, lay), torch.zeros(1, *shape, dtype=torch.bool)
    mask[:, shape[0] // 4 : shape[0] // 2 + 8, shape[1] // 3 : shape[1] // 2 + 5] = True
    back = frame.to_image_logits(frame.to_canvas_mask(mask, 256) - 0.5) > 0
    assert torch.equal(back, mask)


def test_image_logits_of_no_masks_and_in_half_precision() -> None:
    frame = Frame(3, 5)
    assert frame.to_image_logits(torch.zeros(0, 4, 4)).shape == (0, 3, 5)
    logits = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(frame.to_image_logits(logits), frame.to_image_logits(logits.float()))
