"""The chat stage trains the upper layers and the new words, and nothing that LENS reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seglens.embedded import chat_stage as chat_stage
from seglens.embedded.build import BUDGETS
from seglens.embedded.chat_stage import packed_scenes, train_chat
from seglens.embedded.language_stages import Learner, Oracle, accuracies
from seglens.embedded.models import LLAVA, make_llava, make_tokenizer
from seglens.world.chat_phrases import SHARES, new_words
from seglens.world.world import World

FIRST = 4
SHORT = replace(BUDGETS["chat"], steps=4, batch=2, warmup=1)


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> Learner:
    monkeypatch.setattr(chat_stage, "evaluator", lambda *_: dict)
    monkeypatch.setattr(chat_stage, "INSTRUCTIONS", 3)
    monkeypatch.setattr(chat_stage, "REPEATED", 2)
    return fresh()


def fresh() -> Learner:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = make_llava(len(tokenizer), tokenizer.convert_tokens_to_ids(LLAVA.image))
    return Learner(model, tokenizer, Oracle(256, tokenizer), LLAVA)


def test_only_the_upper_layers_and_new_words_are_trained(learner: Learner, tmp_path: Path) -> None:
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    train_chat(learner, SHORT, tmp_path, FIRST)
    moved = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "language_model.layers.4" in name or "language_model.layers.5" in name}
    assert learner.more is not None
    assert len(learner.words) == len(before["model.language_model.embed_tokens.weight"]) + len(new_words())
    spread = (learner.more.weight - learner.words[learner.tokenizer.unk_token_id]).norm(dim=1)
    assert (spread > 0).all()


def test_the_loss_falls_and_a_killed_stage_resumes(
    learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_chat(learner, SHORT, tmp_path / "whole", FIRST)
    again = fresh()
    real = chat_stage.packed_scenes

    def killed(learner: Learner, world: World, indices: range) -> object:
        if indices.start == 4:
            raise KeyboardInterrupt
        return real(learner, world, indices)

    with monkeypatch.context() as patch:
        patch.setattr("seglens.embedded.stage.SAVE_EVERY", -1.0)  # after every step
        patch.setattr(chat_stage, "packed_scenes", killed)
        with pytest.raises(KeyboardInterrupt):
            train_chat(again, SHORT, tmp_path / "killed", FIRST)
    again = fresh()
    train_chat(again, SHORT, tmp_path / "killed", FIRST)
    assert again.more is not None
    assert learner.more is not None
    assert torch.equal(again.more.weight, learner.more.weight)
    for one, other in zip(again.model.parameters(), learner.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_earlier_questions_come_first_and_then_instructions(learner: Learner) -> None:
    chat_stage.learn_words(learner)
    scenes, packed = packed_scenes(learner, World("train", 1), range(3))
    assert len(scenes) == 3
    kinds = [[kind for kind, *_ in spans] for spans in packed.spans]
    assert all(len(scene) == 5 for scene in kinds)
    assert not {*SHARES} & {kind for scene in kinds for kind in scene[:2]}
    assert all(kind in SHARES for scene in kinds for kind in scene[2:])


def test_only_a_whole_answer_is_correct(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly no answer of an untrained model is correct; with the logits of the labels, all are."""
    chat_stage.learn_words(learner)
    scenes, packed = packed_scenes(learner, World("train", 1), range(3))
    with torch.no_grad():
        image = learner.image_tokens(scenes)
    correct = list(learner.correct(image, packed))
    assert [kind for kind, _ in correct] == [kind for spans in packed.spans for kind, *_ in spans]
    assert np.mean([right for _, right in correct]) < 0.3
    labels = torch.nn.functional.one_hot(packed.labels.roll(-1, 1).clamp(min=0), len(learner.words)).float()
    monkeypatch.setattr(learner, "logits", lambda hidden: labels)
    assert all(right for _, right in learner.correct(image, packed))
    shares = accuracies([("a", 1.0), ("a", 0.0), ("b", 1.0)], both=("a", "b"), none=("c",))
    assert shares == {"both": 2 / 3, "a": 0.5, "b": 1.0}
