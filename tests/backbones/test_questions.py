"""Questions as users type them: read, or refused in one line that states why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seglens.backbones import Backbone, EncodedPrefix, QuestionError, load_backbone
from seglens.backbones.chat_template import LONGEST_QUESTION
from tiny import KINDS

GREY = np.full((20, 30, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def opened(backbone: Backbone) -> EncodedPrefix:
    return backbone.open(GREY)


@pytest.fixture(scope="module")
def each(family: Path) -> tuple[Backbone, EncodedPrefix]:
    """Of every kind in turn: tokenizers and templates differ."""
    backbone = load_backbone(family, **KINDS[family.name].options)
    return backbone, backbone.open(GREY)


@pytest.mark.parametrize(
    ("question", "message"),
    [("", "empty"), ("  \n\t\u3000", "empty"), ("half a \ud83d pair", "Unicode")],
)
def test_questions_that_cannot_be_read(each: tuple[Backbone, EncodedPrefix], question: str, message: str) -> None:
    refused(*each, question, message)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_question_cannot_hold_what_stands_for_an_image(each: tuple[Backbone, EncodedPrefix], kind: str) -> None:
    token = vars(each[0].processor).get(f"{kind}_token")
    if token is None:
        pytest.skip(f"this processor has no token for a {kind}")
    for question in (f"a {token} b", token):
        refused(*each, question, f"{token.replace('|', '.')}.*stands for the {kind}")


def test_nor_what_only_the_tokenizer_takes_for_one(llava: Path, tmp_path: Path) -> None:
    """A token that is matched after the normaliser, here one that makes capitals small."""
    copy = shutil.copytree(llava, tmp_path / "copy")
    words = json.loads((copy / "tokenizer.json").read_text())
    next(token for token in words["added_tokens"] if token["content"] == "<image>")["normalized"] = True
    (copy / "tokenizer.json").write_text(json.dumps(words))
    backbone = load_backbone(copy)
    refused(backbone, backbone.open(GREY), "a <IMAGE> b", "stands for the image")


def refused(backbone: Backbone, opened: EncodedPrefix, question: str, message: str) -> None:
    with pytest.raises(QuestionError, match=message) as caught:
        backbone.read(opened, ["the dog", question])
    assert "\n" not in str(caught.value)
    with pytest.raises(QuestionError):
        backbone.generate(GREY, question)


def test_a_long_question_is_answered_but_not_read(each: tuple[Backbone, EncodedPrefix]) -> None:
    backbone, opened = each
    question = "word " * (LONGEST_QUESTION + 1)  # as a choice of long answers, or a page to be read before them
    with pytest.raises(QuestionError, match=f"at most {LONGEST_QUESTION} are read") as caught:
        backbone.read(opened, ["the dog", question])
    assert "\n" not in str(caught.value)
    longest = backbone.chat_inputs(GREY, question)["input_ids"].shape[1]
    assert longest > LONGEST_QUESTION
    assert isinstance(backbone.generate(GREY, question, 1), str)
    most = backbone.module.config.get_text_config().max_position_embeddings
    with pytest.raises(QuestionError, match=f"the model takes {most}; shorten it"):
        backbone.generate(GREY, "word " * most, 1)


def test_no_question(backbone: Backbone, opened: EncodedPrefix) -> None:
    with pytest.raises(QuestionError, match="at least one"):
        backbone.read(opened, [])


@pytest.mark.parametrize(
    "question",
    ["🦊👩‍👩‍👧", "שלום עולם", "nul \0 here", "</s> <s> <pad> <|im_end|>", "{{ 1 }} {% if %}", "<|vision_start|>"],
)
def test_strange_questions_are_read(each: tuple[Backbone, EncodedPrefix], question: str) -> None:
    backbone, opened = each
    assert torch.isfinite(backbone.read(opened, [question, "the dog"]).question).all()


@settings(deadline=None, database=None, max_examples=60)
@given(st.text(st.characters(), max_size=80))
def test_any_text_is_read_or_refused(backbone: Backbone, opened: EncodedPrefix, question: str) -> None:
    try:
        readout = backbone.read(opened, [question])
    except QuestionError:
        return
    assert torch.isfinite(readout.question).all()
