"""Answers are judged as the bare model would: its own chat prompt with the image, then each answer, one forward each.

Errors are in nats, of sums that are some hundred; measured on one thread of a CPU with AVX-512."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bare import Bare, digest
from torch import Tensor

from seglens.backbones import Backbone, QuestionError, load_backbone
from tiny import KINDS

IMAGE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)
ANSWERS = ("red", "two words", "there is no such thing", "two cats")  # two of them begin alike
QUESTION, OTHER = "what is the red thing ?", "what is the blue thing , then ?"
EXACT = {"dtype": torch.float32, "attn_implementation": "eager"}


def load(folder: Path, **how: object) -> Backbone:
    return load_backbone(folder, **{**KINDS[folder.name].options, **how})


@torch.no_grad()
def slowly(bare: Bare, backbone: Backbone, question: str, answer: str) -> Tensor:
    """A forward pass over prompt and answer; the output of the processor is only made longer."""
    inputs, answer_ids = bare.inputs(IMAGE, question), torch.tensor([backbone.prompts.text_tokens(answer)])
    start, more = inputs["input_ids"].shape[1], {"input_ids": answer_ids, "attention_mask": torch.ones_like(answer_ids)}
    for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if key in inputs:
            inputs[key] = torch.cat([inputs[key], more.get(key, torch.zeros_like(answer_ids))], 1)
    chances = bare.model(**inputs).logits[0].log_softmax(-1)
    return chances[start - 1 + torch.arange(answer_ids.shape[1]), answer_ids[0]].sum()


def test_answers_are_as_likely_as_in_the_bare_model(family: Path) -> None:
    backbone, bare = load(family, **EXACT, as_is=True), Bare.load(family, **EXACT)
    before = digest(backbone.module)
    expected = torch.stack([slowly(bare, backbone, OTHER, answer) for answer in ANSWERS])
    values = backbone.likelihoods(IMAGE, OTHER, ANSWERS)
    assert (values - expected).abs().max() < 1e-4  # measured: 1.5e-5 of 124
    prefix = backbone.chat_prefix(IMAGE, QUESTION)
    again = backbone.likelihoods(prefix, OTHER, ANSWERS)
    assert (again - expected).abs().max() < 1e-4  # measured: 1.5e-5
    assert 0 < prefix.shared(backbone.prompts.after(OTHER)) < len(backbone.prompts.after(OTHER)) - 1
    assert torch.equal(backbone.likelihoods(prefix, OTHER, ANSWERS), again)  # nothing of it was used up
    assert digest(backbone.module) == before


def test_the_prefix_is_that_of_the_chat(family: Path) -> None:
    """Token for token, so that another question may follow the same image."""
    backbone = load(family)
    prefix, ids = backbone.chat_prefix(IMAGE, QUESTION), backbone.chat_inputs(IMAGE, QUESTION)["input_ids"][0]
    assert [*prefix.behind] == ids[prefix.start :].tolist() == backbone.prompts.after(QUESTION)
    assert backbone.module.config.image_token_id not in prefix.behind


def test_judging_keeps_nothing_in_the_model(family: Path) -> None:
    """A chat that runs meanwhile would go on from it."""
    backbone = load(family)
    backbone.generate(IMAGE, QUESTION, 2)
    deltas = getattr(backbone.module.model, "rope_deltas", None)
    backbone.likelihoods(IMAGE[:20], OTHER, ANSWERS)
    assert getattr(backbone.module.model, "rope_deltas", None) is deltas


def test_only_new_words_are_run(backbone: Backbone) -> None:
    prefix, lengths = backbone.chat_prefix(IMAGE, QUESTION), list[int]()
    layer = backbone.module.get_decoder().layers[0]
    hook = layer.register_forward_pre_hook(lambda _, arguments: lengths.append(arguments[0].shape[1]))
    left = len(backbone.prompts.after(OTHER)) - prefix.shared(backbone.prompts.after(OTHER))
    backbone.likelihoods(prefix, OTHER, ("red", "blue", "green"))
    backbone.likelihoods(prefix, OTHER, ("red", "two words"))
    hook.remove()
    assert lengths == [left, 2 * (left + 1)]  # one word each: what leads to it is run once


def test_wrong_calls_are_refused(backbone: Backbone, llava: Path) -> None:
    with pytest.raises(QuestionError, match="at least one"):
        backbone.likelihoods(IMAGE, QUESTION, [])
    with pytest.raises(QuestionError, match="none of them empty"):
        backbone.likelihoods(IMAGE, QUESTION, ["yes", ""])
    with pytest.raises(QuestionError, match="empty question"):
        backbone.likelihoods(IMAGE, " ", ["yes"])
    with pytest.raises(ValueError, match="segmentation_only=True"):
        load_backbone(llava, segmentation_only=True).likelihoods(IMAGE, QUESTION, ["yes"])
