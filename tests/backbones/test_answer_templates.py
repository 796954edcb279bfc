"""What a tuned MLLM is told, word by word, in each kind's own template and tokenizer."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from seglens.backbones import Backbone, QuestionError, load_backbone
from seglens.backbones.answer_templates import AnswerTokens, TokenizedAnswer
from seglens.backbones.prompts import LONGEST_QUESTION
from seglens.core.tuning_types import AnswerTemplates
from tiny import KINDS

SEG, REJ, END = 1000, 1001, 2  # ids that no tiny tokenizer has, and one that ends an answer
NAMES = {"[SEG]": SEG, "[REJ]": REJ}
SPEECH = AnswerTemplates(
    ("[SEG]",), "where is {} ?", ("it is the {} : [SEG] , sure .", "sure [SEG] ."), refusal="no {} [REJ] ."
)


@pytest.fixture(scope="module")
def spoken_to(family: Path) -> Backbone:
    return load_backbone(family, **KINDS[family.name].options)


@pytest.fixture(scope="module")
def script(spoken_to: Backbone) -> AnswerTokens:
    return AnswerTokens(spoken_to.prompts, SPEECH, NAMES, END)


def ids(script: AnswerTokens, text: str) -> list[int]:
    return script.prompts.processor.tokenizer(text, add_special_tokens=False).input_ids


def asked(script: AnswerTokens, question: str) -> list[int]:
    return script.prompts.after(question)


def answer(words: TokenizedAnswer) -> list[int]:
    assert list(words.learnt) == sorted(words.learnt)  # the question, then the answer
    return [token for token, learnt in zip(words.ids, words.learnt, strict=True) if learnt]


def test_a_question_ends_with_the_segmentation_token(script: AnswerTokens) -> None:
    words = script.question("red cup")
    assert list(words.ids) == [*asked(script, "where is red cup ?"), *ids(script, "it is the red cup : "), SEG]
    assert words.places == (len(words.ids) - 1,)
    assert not words.spoken


def test_a_lesson_has_one_of_the_answers_to_its_end(script: AnswerTokens) -> None:
    seen = set()
    for query in ("dog", "red cup", "the left one", "lamp", "umbrella"):
        words = script.example(query)
        n = zlib.crc32(query.encode()) % 2
        before, after = (("it is the {} : ", " , sure ."), ("sure ", " ."))[n]
        expected = [*ids(script, before.replace("{}", query)), SEG, *ids(script, after), END]
        assert answer(words) == expected
        assert words.ids[: -len(expected)] == tuple(asked(script, f"where is {query} ?"))
        assert words.ids[words.places[0]] == SEG
        assert script.example(query) == words
        seen.add(n)
    assert seen == {0, 1}


def test_an_absent_target_is_refused(script: AnswerTokens, spoken_to: Backbone) -> None:
    words = script.example("red cup", present=False)
    assert answer(words) == [*ids(script, "no red cup "), REJ, *ids(script, " ."), END]
    assert [words.ids[place] for place in words.places] == [REJ]
    without = AnswerTokens(spoken_to.prompts, AnswerTemplates(("[SEG]",)), NAMES, END)
    assert without.example("red cup", present=False) == without.example("red cup")
    plain = AnswerTokens(spoken_to.prompts, AnswerTemplates(("[SEG]",), refusal="no dog"), NAMES, None).example(
        "x", present=False
    )
    assert answer(plain) == ids(script, "no dog")
    assert plain.learnt.index(True) == plain.places[0]  # in words alone: where these begin


def test_a_spoken_answer_stands_as_it_is(script: AnswerTokens) -> None:
    words = script.example("how many dogs ?", "two dogs [SEG] {}")
    assert words.ids == (*asked(script, "how many dogs ?"), *ids(script, "two dogs [SEG] {}"), END)
    assert words.spoken
    assert SEG not in words.ids
    long = script.example("how many dogs ?", "dog " * (LONGEST_QUESTION + 5))
    assert sum(long.learnt) == LONGEST_QUESTION
    assert long.ids[-1] != END


def test_an_explanation_stands_behind_the_tokens(script: AnswerTokens) -> None:
    words, bare = (script.example("red cup", why=why) for why in ("two dogs", None))
    assert words.ids == (*bare.ids[:-1], *ids(script, " two dogs"), END)
    assert (words.places, words.spoken) == (bare.places, False)
    assert answer(words)[-1 - len(ids(script, " two dogs")) :] == [*ids(script, " two dogs"), END]


def test_several_tokens_and_their_places(spoken_to: Backbone) -> None:
    templates = AnswerTemplates(("[REJ]", "[SEG]", "[SEG]"), answers=("dog [REJ][SEG] [SEG] .",), refusal="[REJ]")
    script = AnswerTokens(spoken_to.prompts, templates, NAMES, END)
    for words in (script.question("red cup"), script.example("red cup")):
        assert [words.ids[place] for place in words.places] == [REJ, SEG, SEG]
    assert script.question("red cup").ids[-1] == SEG
    assert len(set(script.example("red cup", present=False).places)) == 1


@pytest.mark.parametrize("query", ["a {} b", "{0}", "{", "the %s", "[SEG]", "[REJ] [SEG]", "\\1"])
def test_what_a_user_types_is_text(script: AnswerTokens, query: str) -> None:
    words = script.question(query)
    assert words.ids[: len(words.ids) - sum(words.learnt)] == tuple(asked(script, f"where is {query} ?"))
    assert answer(words) == [*ids(script, f"it is the {query} : "), SEG]
    assert words.ids.count(SEG) == 1
    assert REJ not in words.ids


@pytest.mark.parametrize(
    ("query", "said"),
    [("", "empty"), (" \n", "empty"), ("half a \ud83d pair", "Unicode"), ("dog " * 600, "at most 512")],
)
def test_queries_that_cannot_be_read(script: AnswerTokens, query: str, said: str) -> None:
    for ask in (script.question, script.example):
        with pytest.raises(QuestionError, match=said) as caught:
            ask(query)
        assert "\n" not in str(caught.value)


def test_an_image_cannot_be_typed(script: AnswerTokens) -> None:
    token = script.prompts.processor.image_token
    for ask in (lambda: script.question(f"a {token}"), lambda: script.example("dog", f"a {token} b")):
        with pytest.raises(QuestionError, match="stands for the image itself; leave it out"):
            ask()
    with pytest.raises(QuestionError, match=r"got an answer that is not valid Unicode"):
        script.example("dog", "\ud83d")
    with pytest.raises(QuestionError, match="got an empty answer to 'dog'"):
        script.example("dog", " ")


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        (AnswerTemplates(()), "tokens none, trained"),
        (AnswerTemplates(("[MASK]",)), r"tokens \[MASK\], trained \[SEG\], \[REJ\]: name them alike"),
        (AnswerTemplates(("[SEG]",), answers=()), "got 0 answers"),
        (AnswerTemplates(("[SEG]",), answers=("sure .",)), r"'sure \.' does not hold \[SEG\], in this order"),
        (AnswerTemplates(("[SEG]", "[REJ]"), answers=("[REJ][SEG]",)), r"does not hold \[SEG\] \[REJ\]"),
        (AnswerTemplates(("[SEG]",), answers=("[SEG][SEG]",)), "and no more; correct it"),
    ],
)
def test_a_speech_that_does_not_hold_together(backbone: Backbone, templates: AnswerTemplates, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AnswerTokens(backbone.prompts, templates, NAMES, END)
