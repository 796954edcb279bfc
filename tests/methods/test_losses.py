"""Losses against hand computation and torch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seglens.methods.losses import bce, bce_with_logits, dice, focal, mask_terms, smooth_dice


def batch(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, 7, generator=generator) * 4, torch.rand(n, 5, 7, generator=generator)


def test_dice_by_hand() -> None:
    # sigmoid(0) = 1/2 on four pixels, two of them in the target: 2 * 1 / (2 + 2), each over 1000, with LISA's eps.
    logits, target = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    assert dice(logits, target).item() == pytest.approx(1 - (2 / 1000 + 1e-6) / (4 / 1000 + 1e-6), abs=1e-6)
    assert dice(logits, target, scale=1.0, eps=0.0).item() == pytest.approx(0.5)


def test_dice_equals_lisas() -> None:
    logits, target = batch(3)
    s, t = logits.sigmoid().flatten(1, 2), target.flatten(1, 2)
    numerator = 2 * (s / 1000 * t).sum(-1)
    denominator = (s / 1000).sum(-1) + (t / 1000).sum(-1)
    assert torch.allclose(dice(logits, target), 1 - (numerator + 1e-6) / (denominator + 1e-6), atol=1e-6)


def test_dice_of_perfect_and_empty_masks() -> None:
    target = torch.zeros(2, 8, 8)
    target[0, :4] = 1
    logits = torch.where(target > 0, 50.0, -50.0)
    assert torch.allclose(dice(logits, target), torch.zeros(2), atol=1e-5)
    assert dice(-logits, target)[0] > 0.99


@settings(deadline=None, database=None, max_examples=40)
@given(st.integers(1, 4), st.integers(0, 2**31 - 1))
def test_masks_are_independent_of_each_other(n: int, seed: int) -> None:
    logits, target = batch(n, seed)
    for loss, prediction in (
        (bce_with_logits, logits),
        (dice, logits),
        (bce, logits.sigmoid()),
        (focal, logits),
        (smooth_dice, logits),
    ):
        whole = loss(prediction, target)
        assert whole.shape == (n,)
        assert whole.isfinite().all()
        assert (whole >= 0).all()
        assert torch.allclose(whole[-1:], loss(prediction[-1:], target[-1:]), atol=1e-6)


def test_bce_equals_torchs() -> None:
    logits, target = batch(2)
    expected = torch.stack([F.binary_cross_entropy_with_logits(a, b) for a, b in zip(logits, target, strict=True)])
    assert torch.allclose(bce_with_logits(logits, target), expected)
    assert torch.allclose(bce(logits.sigmoid(), target), expected, atol=1e-5)
    assert bce(torch.tensor([[0.25, 0.5]]), torch.tensor([[1.0, 0.0]])).item() == pytest.approx(
        (math.log(4) + math.log(2)) / 2
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bce_is_finite_at_the_ends(dtype: torch.dtype) -> None:
    probability = torch.tensor([[0.0, 1.0, 0.0, 1.0]], dtype=dtype, requires_grad=True)
    loss = bce(probability, torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=dtype))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert probability.grad is not None
    assert probability.grad.isfinite().all()


def test_bce_pulls_up_attention_that_is_almost_zero() -> None:
    scores = torch.tensor([[20.0, 0.0, -2.0]], requires_grad=True)  # the target gets 3e-10 of the attention
    bce(scores.softmax(-1), torch.tensor([[0.0, 0.0, 1.0]])).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 2] < -0.3


def test_focal_by_hand() -> None:
    logits, target = torch.tensor([[0.0, math.log(3)], [-math.log(3), 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    first = (0.25 * 0.5**2 * math.log(2) + 0.75 * 0.75**2 * math.log(4)) / 2
    second = (0.75 * 0.25**2 * math.log(4 / 3) + 0.75 * 0.5**2 * math.log(2)) / 2
    assert focal(logits, target).tolist() == pytest.approx([first, second])
    assert torch.allclose(2 * focal(logits, target, alpha=0.5, gamma=0.0), bce_with_logits(logits, target))


def test_focal_of_two_sigmoids_by_hand() -> None:
    # sigmoid(0) = 1/2 weighs as before; the cross-entropy is that of a logit of 1/2
    loss = focal(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), double_sigmoid=True)
    expected = 0.25 * (0.25 * math.log1p(math.exp(-0.5)) + 0.75 * math.log1p(math.exp(0.5))) / 2
    assert loss.item() == pytest.approx(expected)


def test_focal_is_finite_where_it_is_certain() -> None:
    logits = torch.tensor([[200.0, -200.0, 200.0, -200.0]], requires_grad=True)
    loss = focal(logits, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx((0.75 + 0.25) * 200 / 4)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_smooth_dice_by_hand() -> None:
    logits, target = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    target[0, 0] = 1
    assert smooth_dice(logits, target).tolist() == pytest.approx([1 - (2 * 1 + 1) / (2 + 2 + 1), 1 - 1 / (2 + 1)])
    assert smooth_dice(logits, target, smooth=0.0).tolist() == pytest.approx([0.5, 1])
    assert smooth_dice(torch.full((1, 2, 2), -50.0), target[1:]).item() == pytest.approx(0, abs=1e-6)


def test_mask_terms_have_their_names() -> None:
    logits, target = batch(2)
    terms = mask_terms(logits, target)
    assert list(terms) == ["bce", "dice"]
    assert torch.equal(terms["dice"], dice(logits, target))
    assert torch.equal(terms["bce"], bce_with_logits(logits, target))


def test_no_masks_give_no_losses() -> None:
    nothing = torch.zeros(0, 4, 4)
    assert all(loss(nothing, nothing).shape == (0,) for loss in (bce, bce_with_logits, dice, focal, smooth_dice))
