"""LISA's own arithmetic on made-up readings; what it shares with every method is in test_contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from readouts import SOME, WIDTH, B, FakeReader, Q, readout, taught
from torch import Tensor

from seglens.core.geometry import Frame
from seglens.core.types import Embedding, MethodOutput, Totals, Truth
from seglens.data.query_templates import apply
from seglens.decoders import MaskDecoder
from seglens.methods.lisa import PRESETS, Lisa, LisaConfig
from seglens.methods.losses import bce_with_logits, dice


@pytest.fixture(scope="module")
def embedding(decoder: MaskDecoder) -> Embedding:
    noise = np.random.default_rng(0).integers(0, 256, (B, 50, 90, 3), dtype=np.uint8)
    return Embedding(torch.cat([decoder.encode(image, Frame(50, 90)).coarse for image in noise]))


def make(decoder: MaskDecoder, **settings: Any) -> Lisa:
    torch.manual_seed(0)
    return Lisa(LisaConfig(**settings), FakeReader(), decoder)


# ------------------------------------------------------------------ configuration


def test_tuning_and_texts_are_those_of_the_released_code() -> None:
    config = LisaConfig()
    tuning, templates = config.tuning(), config.templates()
    assert (tuning.rank, tuning.alpha, tuning.dropout, tuning.targets) == (8, 16.0, 0.05, ("q_proj", "v_proj"))
    assert (tuning.tokens, tuning.vision_rank, tuning.projector, tuning.vocabulary) == (("[SEG]",), 0, False, False)
    assert (templates.tokens, templates.refusal, len(templates.answers)) == (("[SEG]",), None, 5)
    assert templates.answers[0] == "[SEG]."
    assert PRESETS["authors"].config.tuning().vocabulary
    assert PRESETS["authors"].config.text_mean == "tokens"


@pytest.mark.parametrize("kind", ["phrase", "sentence"])
def test_no_query_gets_two_requests(kind: str) -> None:
    """LISA's own words in evaluation, whichever of the two ways they come."""
    query = "the red cup" if kind == "phrase" else "what would you drink from ?"
    requests = {
        name: PRESETS[name].config.request.replace("{}", apply(prompt, query, kind, 0)).strip()
        for name, prompt in (("default", "lens-eval"), ("authors", "lisa-eval"))
    }
    expected = f"What is {query} in this image?" if kind == "phrase" else query
    assert set(requests.values()) == {f"{expected} Please output segmentation mask."}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answers": ()}, r"LISA got answers=\[\]; it needs one or more, each with one \[SEG\]"),
        ({"answers": ("Sure.",)}, "needs one or more, each with one"),
        ({"answers": ("[SEG][SEG]",)}, "needs one or more, each with one"),
        ({"request": "the cup"}, "LISA got request='the cup'; it needs one {} where the query goes"),
    ],
)
def test_invalid_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LisaConfig(**settings)


# ------------------------------------------------------------------ forward


@torch.no_grad()
def test_the_projected_state_is_the_only_prompt(decoder: MaskDecoder, embedding: Embedding) -> None:
    lisa, read = make(decoder), readout()
    first, _, second = lisa.project
    prompts = torch.relu(read.segment @ first.weight.T + first.bias) @ second.weight.T + second.bias
    out = lisa.decode(read, embedding)
    assert prompts.shape == (B, Q, 1, decoder.width)
    assert torch.allclose(out.mask_logits, decoder.decode(embedding, prompts, None, lisa.mask_decoder), atol=1e-5)
    assert out.mask_logits.shape == (B, Q, lisa.mask_side, lisa.mask_side)
    assert out.presence_logits is None
    assert out.text_loss is read.text_loss


def test_the_state_holds_exactly_the_trained_weights(decoder: MaskDecoder) -> None:
    whole, frozen = make(decoder), make(decoder, train_mask_decoder=False)
    assert {name.split(".")[0] for name in whole.state_dict()} == {"adapter", "project", "mask_decoder"}
    assert {name.split(".")[0] for name in frozen.state_dict()} == {"adapter", "project"}
    shapes = [tuple(parameter.shape) for parameter in whole.project.parameters()]
    assert shapes == [(WIDTH, WIDTH), (WIDTH,), (decoder.width, WIDTH), (decoder.width,)]


# ------------------------------------------------------------------ losses


def logits(side: int = 32) -> Tensor:
    return 4 * torch.randn(B, Q, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("absent", ["skip", "empty"])
def test_losses_are_means_over_masks_and_answers(decoder: MaskDecoder, absent: str) -> None:
    """LISA divides the sum over all masks of a batch by their number."""
    predicted, text = logits(), torch.arange(6.0).reshape(B, Q)
    terms = make(decoder, absent=absent).losses(MethodOutput(predicted, text_loss=text), SOME)
    pairs = [(predicted[at][None], SOME.masks[at][None]) for at in taught(absent)]
    assert terms["bce"].item() == pytest.approx(2 * sum(bce_with_logits(*p).item() for p in pairs) / len(pairs))
    assert terms["dice"].item() == pytest.approx(0.5 * sum(dice(*p).item() for p in pairs) / len(pairs))
    assert terms["text"].item() == pytest.approx((0 + 1 + 2 + 3 + 4) / 5)  # the last is neither asked nor spoken


def test_a_step_in_two_passes_has_the_same_loss(decoder: MaskDecoder) -> None:
    lisa, predicted, text = make(decoder), logits(), torch.rand(B, Q)
    whole = lisa.losses(MethodOutput(predicted, text_loss=text), SOME)

    def part(b: int) -> dict[str, Tensor]:
        cut = Truth(**{name: getattr(SOME, name)[b : b + 1] for name in vars(SOME)})
        return lisa.losses(MethodOutput(predicted[b : b + 1], text_loss=text[b : b + 1]), cut, SOME.totals())

    for name, value in whole.items():
        assert value.item() == pytest.approx(sum(part(b)[name].item() for b in range(B)), rel=1e-6)


@pytest.mark.parametrize("mean", ["answers", "tokens"])
def test_a_step_in_two_passes_has_the_same_text_loss(decoder: MaskDecoder, mean: str) -> None:
    """Over all answers, or all tokens, of the step: not the mean of the means of its passes."""
    lisa, predicted, text = make(decoder, text_mean=mean), logits(), torch.rand(B, Q)
    cuts = [Truth(**{name: getattr(SOME, name)[b : b + 1] for name in vars(SOME)}) for b in range(B)]
    parts = [
        lisa.losses(MethodOutput(predicted[b : b + 1], text_loss=text[b : b + 1]), cut, SOME.totals())["text"].item()
        for b, cut in enumerate(cuts)
    ]
    whole = lisa.losses(MethodOutput(predicted, text_loss=text), SOME)["text"].item()
    assert sum(parts) == pytest.approx(whole)
    weights = SOME.tokens.flatten()[:5] if mean == "tokens" else torch.ones(5)  # the last belongs to no answer
    assert whole == pytest.approx((text.flatten()[:5] * weights).sum().item() / weights.sum().item())


def test_a_batch_without_answers_has_zero_loss(decoder: MaskDecoder) -> None:
    nothing = torch.zeros(B, Q, dtype=torch.bool)
    void = replace(SOME, present=nothing, valid=nothing, spoken=nothing)
    predicted = logits().requires_grad_()
    terms = make(decoder).losses(MethodOutput(predicted, text_loss=torch.rand(B, Q)), void, Totals(0.0, 0.0, 0.0))
    assert [term.item() for term in terms.values()] == [0, 0, 0]
    sum(terms.values(), torch.zeros(())).backward()
    assert predicted.grad is not None
    assert (predicted.grad == 0).all()
