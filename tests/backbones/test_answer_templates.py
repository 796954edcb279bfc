"""The tokens that a tuned MLLM is given, one by one, in each kind's own template and tokenizer."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from seglens.backbones import Backbone, QuestionError, load_backbone
from seglens.backbones.answer_templates import AnswerTokens, TokenizedAnswer
from seglens.backbones.chat_template import LONGEST_QUESTION
from seglens.core.tuning_types import AnswerTemplates
from tiny import KINDS

SEG, REJ, END = 1000, 1001, 2  # ids that no tiny tokenizer has, and one that ends an answer
NAMES = {"[SEG]": SEG, "[REJ]": REJ}
TEMPLATES = AnswerTemplates(
    ("[SEG]",), "where is {} ?", ("it is the {} : [SEG] , sure .", "sure [SEG] ."), refusal="no {} [REJ] ."
)


@pytest.fixture(scope="module")
def kind_backbone(family: Path) -> Backbone:
    return load_backbone(family, **KINDS[family.name].options)


@pytest.fixture(scope="module")
def answer_tokens(kind_backbone: Backbone) -> AnswerTokens:
    return AnswerTokens(kind_backbone.prompts, TEMPLATES, NAMES, END)


def ids(answer_tokens: AnswerTokens, text: str) -> list[int]:
    return answer_tokens.prompts.processor.tokenizer(text, add_special_tokens=False).input_ids


def question_ids(answer_tokens: AnswerTokens, question: str) -> list[int]:
    return answer_tokens.prompts.after(question)


def answer(words: TokenizedAnswer) -> list[int]:
    assert list(words.learnt) == sorted(words.learnt)  # the question, then the answer
    return [token for token, learnt in zip(words.ids, words.learnt, strict=True) if learnt]


def test_a_question_ends_with_the_segmentation_token(answer_tokens: AnswerTokens) -> None:
    words = answer_tokens.question("red cup")
    assert list(words.ids) == [
        *question_ids(answer_tokens, "where is red cup ?"),
        *ids(answer_tokens, "it is the red cup : "),
        SEG,
    ]
    assert words.places == (len(words.ids) - 1,)
    assert not words.spoken


def test_an_example_has_one_whole_answer(answer_tokens: AnswerTokens) -> None:
    used = set()
    for query in ("dog", "red cup", "the left one", "lamp", "umbrella"):
        words = answer_tokens.example(query)
        n = zlib.crc32(query.encode()) % 2
        before, after = (("it is the {} : ", " , sure ."), ("sure ", " ."))[n]
        expected = [*ids(answer_tokens, before.replace("{}", query)), SEG, *ids(answer_tokens, after), END]
        assert answer(words) == expected
        assert words.ids[: -len(expected)] == tuple(question_ids(answer_tokens, f"where is {query} ?"))
        assert words.ids[words.places[0]] == SEG
        assert answer_tokens.example(query) == words
        used.add(n)
    assert used == {0, 1}


def test_an_absent_target_is_refused(answer_tokens: AnswerTokens, kind_backbone: Backbone) -> None:
    words = answer_tokens.example("red cup", present=False)
    assert answer(words) == [*ids(answer_tokens, "no red cup "), REJ, *ids(answer_tokens, " ."), END]
    assert [words.ids[place] for place in words.places] == [REJ]
    without = AnswerTokens(kind_backbone.prompts, AnswerTemplates(("[SEG]",)), NAMES, END)
    assert without.example("red cup", present=False) == without.example("red cup")
    plain = AnswerTokens(kind_backbone.prompts, AnswerTemplates(("[SEG]",), refusal="no dog"), NAMES, None).example(
        "x", present=False
    )
    assert answer(plain) == ids(answer_tokens, "no dog")
    assert plain.learnt.index(True) == plain.places[0]  # in words alone: where these begin


def test_an_answer_in_words_stays_as_it_is(answer_tokens: AnswerTokens) -> None:
    words = answer_tokens.example("how many dogs ?", "two dogs [SEG] {}")
    assert words.ids == (*question_ids(answer_tokens, "how many dogs ?"), *ids(answer_tokens, "two dogs [SEG] {}"), END)
    assert words.spoken
    assert SEG not in words.ids
    long = answer_tokens.example("how many dogs ?", "dog " * (LONGEST_QUESTION + 5))
    assert sum(long.learnt) == LONGEST_QUESTION
    assert long.ids[-1] != END


def test_an_explanation_stands_after_the_tokens(answer_tokens: AnswerTokens) -> None:
    words, bare = (answer_tokens.example("red cup", why=why) for why in ("two dogs", None))
    assert words.ids == (*bare.ids[:-1], *ids(answer_tokens, " two dogs"), END)
    assert (words.places, words.spoken) == (bare.places, False)
    assert answer(words)[-1 - len(ids(answer_tokens, " two dogs")) :] == [*ids(answer_tokens, " two dogs"), END]


def test_several_tokens_and_their_places(kind_backbone: Backbone) -> None:
    templates = AnswerTemplates(("[REJ]", "[SEG]", "[SEG]"), answers=("dog [REJ][SEG] [SEG] .",), refusal="[REJ]")
    answer_tokens = AnswerTokens(kind_backbone.prompts, templates, NAMES, END)
    for words in (answer_tokens.question("red cup"), answer_tokens.example("red cup")):
        assert [words.ids[place] for place in words.places] == [REJ, SEG, SEG]
    assert answer_tokens.question("red cup").ids[-1] == SEG
    assert len(set(answer_tokens.example("red cup", present=False).places)) == 1


@pytest.mark.parametrize("query", ["a {} b", "{0}", "{", "the %s", "[SEG]", "[REJ] [SEG]", "\\1"])
def test_what_a_user_types_is_text(answer_tokens: AnswerTokens, query: str) -> None:
    words = answer_tokens.question(query)
    assert words.ids[: len(words.ids) - sum(words.learnt)] == tuple(question_ids(answer_tokens, f"where is {query} ?"))
    assert answer(words) == [*ids(answer_tokens, f"it is the {query} : "), SEG]
    assert words.ids.count(SEG) == 1
    assert REJ not in words.ids


@pytest.mark.parametrize(
    ("query", "message"),
    [("", "empty"), (" \n", "empty"), ("half a \ud83d pair", "Unicode"), ("dog " * 600, "at most 512")],
)
def test_queries_that_cannot_be_read(answer_tokens: AnswerTokens, query: str, message: str) -> None:
    for ask in (answer_tokens.question, answer_tokens.example):
        with pytest.raises(QuestionError, match=message) as caught:
            ask(query)
        assert "\n" not in str(caught.value)


def test_an_image_cannot_be_typed(answer_tokens: AnswerTokens) -> None:
    token = answer_tokens.prompts.processor.image_token
    for ask in (lambda: answer_tokens.question(f"a {token}"), lambda: answer_tokens.example("dog", f"a {token} b")):
        with pytest.raises(QuestionError, match="stands for the image itself; leave it out"):
            ask()
    with pytest.raises(QuestionError, match=r"got an answer that is not valid Unicode"):
        answer_tokens.example("dog", "\ud83d")
    with pytest.raises(QuestionError, match="got an empty answer to 'dog'"):
        answer_tokens.example("dog", " ")


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        (AnswerTemplates(()), "tokens none, trained"),
        (AnswerTemplates(("[MASK]",)), r"tokens \[MASK\], trained \[SEG\], \[REJ\]: name them alike"),
        (AnswerTemplates(("[SEG]",), answers=()), "got 0 answers"),
        (AnswerTemplates(("[SEG]",), answers=("sure .",)), r"'sure \.' does not hold \[SEG\], in this order"),
        (AnswerTemplates(("[SEG]", "[REJ]"), answers=("[REJ][SEG]",)), r"does not hold \[SEG\] \[REJ\]"),
        (AnswerTemplates(("[SEG]",), answers=("[SEG][SEG]",)), "and no more; correct it"),
    ],
)
def test_templates_that_contradict_each_other(backbone: Backbone, templates: AnswerTemplates, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnswerTokens(backbone.prompts, templates, NAMES, END)
