"""The grammar of people's sentences has no unused rule, and uses words that the embedded model knows."""

from __future__ import annotations

import re

import numpy as np
import pytest

from seglens import Segmenter
from seglens.agent.exam import read_instructions
from seglens.embedded.models import make_processor, make_tokenizer
from seglens.world.chat_phrases import INTENT_OF, SHARES, UNKNOWN, ChatPhrases, grammar, new_words
from seglens.world.language import INTENT, speaker, vocabulary
from seglens.world.world import World

WORLD = World("train", 15)


def sentences(kind: str, scenes: int = 20, each: int = 20) -> list[str]:
    people = [ChatPhrases(speaker(WORLD, index)) for index in range(scenes)]
    return [one.sentence(kind) for one in people for _ in range(each)]


def test_no_rule_is_missing_or_left_over() -> None:
    rules, named = grammar(), set[str]()
    for alternatives in rules.values():
        for one in alternatives:
            named |= set(re.findall(r"\{(\w+)\}", one))
            assert one.count("{") == one.count("}") == len(re.findall(r"\{\w+\}", one)), one
    slots = ChatPhrases(speaker(WORLD, 0))._slots.keys()
    assert named - rules.keys() == slots
    assert rules.keys() - named == SHARES.keys() == INTENT_OF.keys()


@pytest.mark.parametrize("kind", SHARES)
def test_sentences_are_whole_and_known(kind: str) -> None:
    tokenizer = make_tokenizer(words=new_words())
    phrases = sentences(kind)
    assert not [one for one in phrases if re.search(r"[{}\[\]|]|  | [,.?!]$|^ ", one)]
    assert len(set(phrases)) > 0.9 * len(phrases)
    ids = tokenizer(phrases).input_ids
    assert not [one for one, row in zip(phrases, ids, strict=True) if tokenizer.unk_token_id in row]


def test_the_same_scene_gives_the_same_sentences() -> None:
    one, other = (ChatPhrases(speaker(WORLD, 3)) for _ in range(2))
    assert [one.intent() for _ in range(20)] == [other.intent() for _ in range(20)]


def test_some_words_are_unknown() -> None:
    instructions = [ChatPhrases(speaker(WORLD, index)).intent() for index in range(300)]
    assert all(one.text.startswith(INTENT.format("")) for one in instructions)
    assert {one.answer for one in instructions} == {*INTENT_OF.values()}
    assert 0.1 < np.mean([UNKNOWN in one.text for one in instructions]) < 0.45
    assert make_tokenizer()(UNKNOWN, add_special_tokens=False).input_ids == [make_tokenizer().unk_token_id]


def test_new_words_follow_the_old_ones_and_are_one_token_each() -> None:
    old, new = make_tokenizer().get_vocab(), make_tokenizer(words=new_words()).get_vocab()
    assert {word: number for word, number in new.items() if number < len(old)} == old
    assert sorted(new, key=new.__getitem__)[len(old) :] == new_words()
    assert not {*new_words()} & {*vocabulary()}


def test_the_package_knows_these_words(segmenter: Segmenter) -> None:
    tokenizer = segmenter.backbone.prompts.processor.tokenizer
    assert tokenizer.get_vocab() == make_processor(new_words()).tokenizer.get_vocab()


def test_the_written_instructions_are_not_in_the_grammar() -> None:
    """Routers are measured on them. Common sentences ("are you sure?") are in both; requests are not."""
    taught = {re.sub(r"\W+", " ", one).strip() for kind in SHARES for one in sentences(kind, 100, 40)}
    instructions = [one for one in read_instructions() if one.part == "test"]
    known = [one for one in instructions if re.sub(r"\W+", " ", one.text.lower()).strip() in taught]
    assert len(known) < 0.06 * len(instructions), known  # measured: 15 of 360; 25 among 128,000 sentences
    assert len([one for one in known if one.route == "segmentation"]) <= 3, known
