"""The stage that teaches the upper layers: it moves them and the new words, and nothing that LENS reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seglens.embedded import chat_stage as upper
from seglens.embedded.build import BUDGETS
from seglens.embedded.chat_stage import teach, train_manners
from seglens.embedded.language_stages import Oracle, Pupil, report
from seglens.embedded.models import LLAVA, make_llava, make_tokenizer
from seglens.world.chat_phrases import SHARES, new_words
from seglens.world.world import World

FIRST = 4
SHORT = replace(BUDGETS["manners"], steps=4, batch=2, warmup=1)


@pytest.fixture
def pupil(monkeypatch: pytest.MonkeyPatch) -> Pupil:
    monkeypatch.setattr(upper, "examiner", lambda *_: dict)
    monkeypatch.setattr(upper, "INSTRUCTIONS", 3)
    monkeypatch.setattr(upper, "REHEARSED", 2)
    return fresh()


def fresh() -> Pupil:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = make_llava(len(tokenizer), tokenizer.convert_tokens_to_ids(LLAVA.image))
    return Pupil(model, tokenizer, Oracle(256, tokenizer), LLAVA)


def test_only_the_upper_layers_and_new_words_move(pupil: Pupil, tmp_path: Path) -> None:
    before = {name: p.detach().clone() for name, p in pupil.model.named_parameters()}
    train_manners(pupil, SHORT, tmp_path, FIRST)
    moved = {name for name, p in pupil.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "language_model.layers.4" in name or "language_model.layers.5" in name}
    assert pupil.more is not None
    assert len(pupil.words) == len(before["model.language_model.embed_tokens.weight"]) + len(new_words())
    spread = (pupil.more.weight - pupil.words[pupil.tokenizer.unk_token_id]).norm(dim=1)
    assert (spread > 0).all()


def test_the_loss_falls_and_a_killed_stage_resumes(
    pupil: Pupil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_manners(pupil, SHORT, tmp_path / "whole", FIRST)
    again = fresh()
    real = upper.teach

    def killed(pupil: Pupil, world: World, indices: range) -> object:
        if indices.start == 4:
            raise KeyboardInterrupt
        return real(pupil, world, indices)

    with monkeypatch.context() as patch:
        patch.setattr("seglens.embedded.recipe.SAVE_EVERY", -1.0)  # after every step
        patch.setattr(upper, "teach", killed)
        with pytest.raises(KeyboardInterrupt):
            train_manners(again, SHORT, tmp_path / "killed", FIRST)
    again = fresh()
    train_manners(again, SHORT, tmp_path / "killed", FIRST)
    assert again.more is not None
    assert pupil.more is not None
    assert torch.equal(again.more.weight, pupil.more.weight)
    for one, other in zip(again.model.parameters(), pupil.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_is_taught(pupil: Pupil) -> None:
    upper.learn_words(pupil)
    scenes, packed = teach(pupil, World("train", 1), range(3))
    assert len(scenes) == 3
    kinds = [[kind for kind, *_ in spans] for spans in packed.spans]
    assert all(len(said) == 5 for said in kinds)
    assert not {*SHARES} & {kind for said in kinds for kind in said[:2]}
    assert all(kind in SHARES for said in kinds for kind in said[2:])


def test_marks_are_of_whole_answers(pupil: Pupil, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an untaught model nearly nothing is right; answers put into its mouth all are."""
    upper.learn_words(pupil)
    scenes, packed = teach(pupil, World("train", 1), range(3))
    with torch.no_grad():
        image = pupil.see(scenes)
    marks = list(pupil.marks(image, packed))
    assert [kind for kind, _ in marks] == [kind for spans in packed.spans for kind, *_ in spans]
    assert np.mean([right for _, right in marks]) < 0.3
    told = torch.nn.functional.one_hot(packed.labels.roll(-1, 1).clamp(min=0), len(pupil.words)).float()
    monkeypatch.setattr(pupil, "speak", lambda hidden: told)
    assert all(right for _, right in pupil.marks(image, packed))
    said = report([("a", 1.0), ("a", 0.0), ("b", 1.0)], both=("a", "b"), none=("c",))
    assert said == {"both": 2 / 3, "a": 0.5, "b": 1.0}
