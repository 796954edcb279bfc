"""UFO's own arithmetic on made-up readings; what it shares with every method is in test_contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from readouts import GRID, SOME, WIDTH, B, FakeReader, Q, readout, taught, truth
from torch import Tensor

from seglens.core.types import MethodOutput
from seglens.methods.losses import focal
from seglens.methods.ufo import PRESETS, Ufo, UfoConfig


def make(**settings: Any) -> Ufo:
    return Ufo(UfoConfig(**settings), FakeReader())


# ------------------------------------------------------------------ configuration


def test_tuning_and_texts_are_those_of_the_released_code() -> None:
    config = UfoConfig()
    tuning, templates = config.tuning(), config.templates()
    assert (tuning.tokens, tuning.rank, tuning.alpha, len(tuning.targets)) == (("<MASK>",), 8, 16.0, 7)
    assert templates.tokens == ("<MASK>",) * 16  # one word, sixteen times
    assert {answer.count("<MASK>") for answer in templates.answers} == {16}
    assert templates.answers[:2] == ("<MASK>" * 16 + ".", "It is " + "<MASK>" * 16 + ".")
    assert templates.refusal is None
    assert UfoConfig(scale=2, answers=("<MASK> .",)).templates().answers == ("<MASK><MASK><MASK><MASK> .",)
    assert PRESETS["authors"].config == replace(config, vocabulary=True, final_norm=True, text_mean="tokens")
    assert PRESETS["authors"].config.tuning().final_norm


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answers": ("Sure.",)}, r"UFO got answers=\['Sure.'\]; it needs one or more, each with one <MASK>"),
        ({"request": "{} {}"}, "UFO got request='{} {}'; it needs one {} where the query goes"),
        ({"scale": 0}, "UFO got scale=0; it must be 1 or more"),
        ({"mask_side": 0}, "UFO got mask_side=0; it must be 1 or more"),
    ],
)
def test_invalid_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UfoConfig(**settings)


# ------------------------------------------------------------------ forward


@pytest.mark.parametrize("each", [False, True], ids=["one image", "an image per question"])
def test_tokens_are_the_sub_pixels_of_cells(each: bool) -> None:
    """By loops: token n of a cell lies at row n / 4, column n % 4 of it."""
    read = readout(16, each)
    ufo = make(mask_side=4 * GRID[0])  # as fine as the maps: nothing is interpolated
    out = ufo.decode(read, None)
    assert out.mask_logits.shape == (B, Q, 12, 12)
    assert out.text_loss is read.text_loss
    for b, q, n, cell in [(0, 0, 0, 0), (0, 1, 1, 0), (1, 2, 4, 5), (1, 0, 15, 8), (0, 2, 6, 7)]:
        row, column = 4 * (cell // 3) + n // 4, 4 * (cell % 3) + n % 4
        expected = read.segment[b, q, n] @ read.image[b, q if each else 0, cell] / WIDTH**0.5
        assert out.mask_logits[b, q, row, column].item() == pytest.approx(expected.item(), abs=1e-5)


def test_masks_are_up_sampled_bilinearly() -> None:
    read = readout(16)
    exact, out = make(mask_side=12).decode(read, None).mask_logits, make(mask_side=40).decode(read, None).mask_logits
    assert torch.equal(out, F.interpolate(exact, (40, 40), mode="bilinear", align_corners=False))


def test_maps_are_computed_in_single_precision_under_autocast() -> None:
    read, ufo = readout(16), make(mask_side=40)
    with torch.autocast("cpu", torch.bfloat16):
        half = ufo.decode(read, None).mask_logits
    assert torch.equal(half, ufo.decode(read, None).mask_logits)


def test_only_the_adapter_is_trained() -> None:
    assert {name.split(".")[0] for name in make().state_dict()} == {"adapter"}


# ------------------------------------------------------------------ losses


def logits() -> Tensor:
    return 4 * torch.randn(B, Q, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("absent", ["skip", "empty"])
def test_losses_are_means_over_masks_and_answers(absent: str) -> None:
    predicted, text = logits(), torch.arange(6.0).reshape(B, Q)
    terms = make(absent=absent, focal_weight=3.0).losses(MethodOutput(predicted, text_loss=text), SOME)
    pairs = [(predicted[at], SOME.masks[at]) for at in taught(absent)]
    naive = [1 - (2 * (s.sigmoid() * t).sum() + 1e-3) / (s.sigmoid().sum() + t.sum() + 1e-3) for s, t in pairs]
    focused = [focal(s[None], t[None]) for s, t in pairs]
    assert terms["dice"].item() == pytest.approx(sum(naive).item() / len(pairs))
    assert terms["focal"].item() == pytest.approx(3 * sum(focused).item() / len(pairs))
    assert terms["text"].item() == pytest.approx((0 + 1 + 2 + 3 + 4) / 5)  # the last is neither asked nor spoken


def test_long_answers_weigh_more_where_tokens_are_averaged() -> None:
    """Answers of 1, 2, 3, 4 and 5 tokens that are valid or spoken, and one of 6 that is void."""
    text = torch.tensor([[0.5, 1.0, 4.0], [2.0, 8.0, 100.0]])
    loss = make(text_mean="tokens", text_weight=2.0).losses(MethodOutput(logits(), text_loss=text), SOME)["text"]
    assert loss.item() == pytest.approx(2 * (1 * 0.5 + 2 * 1.0 + 3 * 4.0 + 4 * 2.0 + 5 * 8.0) / (1 + 2 + 3 + 4 + 5))
    bare = replace(SOME, tokens=None)
    with pytest.raises(ValueError, match=r"text_mean='tokens' needs Truth\.tokens"):
        make(text_mean="tokens").losses(MethodOutput(logits(), text_loss=text), bare)


def test_a_batch_without_targets_teaches_only_words() -> None:
    nothing = truth([[0] * Q] * B, [[1] * Q] * B, [[0] * Q] * B)
    predicted = logits().requires_grad_()
    terms = make().losses(MethodOutput(predicted, text_loss=torch.ones(B, Q)), nothing)
    assert {name: term.item() for name, term in terms.items()} == {"text": 1, "focal": 0, "dice": 0}
    sum(terms.values(), torch.zeros(())).backward()
    assert predicted.grad is not None
    assert (predicted.grad == 0).all()
