"""With the preset "authors" a head is asked in exactly the tokens of its authors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from transformers import LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.video_processing_utils import VideoProcessorMixin

from authors_words import CONVERSATIONS, INTERNVL_TEMPLATE, LLAVA_TEMPLATE, USER, Said
from seglens.backbones import FAMILIES
from seglens.backbones.answer_templates import AnswerTokens
from seglens.backbones.chat_template import Prompts
from seglens.backbones.processors import without_videos
from seglens.data.head_prompt import HeadPrompt
from seglens.methods.lens import LensConfig
from seglens.training.presets import recipe
from tiny import internvl_tokenizer, letters

NEW = 10**6  # the first number of a new token; the one before ends an answer
END = {"llava": "</s>", "internvl": "<|im_end|>"}


def processor(family: str) -> Any:
    """A processor of that family with the chat template of its -hf files; a tokenizer of letters hides nothing."""
    if family == "llava":
        return LlavaProcessor(
            CLIPImageProcessorPil(),
            letters(image_token="<image>"),
            patch_size=14,
            vision_feature_select_strategy="default",
            chat_template=LLAVA_TEMPLATE,
            num_additional_image_tokens=1,
        )
    return without_videos(InternVLProcessor)(
        GotOcr2ImageProcessorPil(), internvl_tokenizer(), VideoProcessorMixin(), chat_template=INTERNVL_TEMPLATE
    )


def conversation(family: str) -> Prompts:
    own_processor = processor(family)
    return Prompts(own_processor, FAMILIES[family].image_text(own_processor), family)


@dataclass(frozen=True)
class Ours:
    """What a head reads that the preset trained: the question, and its answer to the last segmentation token."""

    reading: Prompts
    question: list[int]
    answer: list[int]
    names: dict[int, str]  # of new tokens

    def text(self) -> str:
        tokenizer = self.reading.processor.tokenizer
        pieces = [self.names[t] if t in self.names else tokenizer.decode([t]) for t in self.answer]
        return tokenizer.decode(self.question) + "".join(pieces)


def read(case: Said, whole: bool = False) -> Ours:
    """`whole`: to the end of the answer, as it is taught."""
    theirs = recipe("authors", case.method)
    # LENS's queries come from LISA's mixture, in LENS's templates unless its text states another
    head_prompt = HeadPrompt.of(theirs.prompt or "lens", theirs.system[case.family])
    assert head_prompt is not None
    reading = conversation(case.family).with_system_text(str(head_prompt.system))
    query = head_prompt.apply(case.query, case.kind)
    image = reading.processor.tokenizer.convert_tokens_to_ids(reading.processor.image_token)
    if isinstance(theirs.method, LensConfig):
        return Ours(reading, [*reading.before(), image, *reading.after(query)], [], {})
    templates = theirs.method.templates()
    tokens = {token: NEW + n for n, token in enumerate(theirs.method.tuning().tokens)}
    answer_tokens = AnswerTokens(reading, templates, tokens, NEW - 1)
    words = answer_tokens.example(query) if whole else answer_tokens.question(query)
    first = words.learnt.index(True)
    names = {number: token for token, number in tokens.items()} | {NEW - 1: END[case.family]}
    return Ours(reading, [*reading.before(), image, *words.ids[:first]], [*words.ids[first:]], names)


@pytest.mark.parametrize("case", CONVERSATIONS, ids=[f"{one.method}-{one.family}-{one.kind}" for one in CONVERSATIONS])
def test_the_authors_tokens(case: Said) -> None:
    expected = case.theirs
    for theirs, ours in case.differs:
        assert theirs in expected
        expected = expected.replace(theirs, ours)
    tokens = read(case)
    if case.method == "ufo":  # it generates its answer; here the first is given
        tokens = replace(tokens, answer=[])
    # the state that predicts [SEG] decides; what follows it is only taught
    question, token, _ = expected.partition("[SEG]")
    assert tokens.text() == question + token
    # one tokenizer, one string: the numbers are equal too
    known = [number for number in (*tokens.question, *tokens.answer) if number not in tokens.names]
    assert known == tokens.reading.processor.tokenizer(question).input_ids


def test_mllmseg_learns_all_of_its_answer() -> None:
    case = next(one for one in CONVERSATIONS if one.method == "mllmseg")
    assert read(case, whole=True).text() == case.theirs


def test_only_presets_authors_have_a_system_text() -> None:
    for method in ("lens", "mllmseg", "self1e", "lisa", "ufo"):
        assert recipe("authors", method).system
        assert not recipe("default", method).system
    for method in ("lens", "mllmseg", "self1e"):
        assert not recipe("paper", method).system


def test_a_template_that_leaves_the_system_text_out_is_refused() -> None:
    own_processor = processor("llava")
    own_processor.chat_template = "USER: <image>\n{{ messages[-1]['content'][1]['text'] }} ASSISTANT:"
    prompts = Prompts(own_processor, "<image>", "mine")
    with pytest.raises(ValueError, match="the chat template of mine leaves out the system text"):
        prompts.with_system_text(USER)
