"""Answers in words about any number of images: as transformers gives them, passed on piece by piece, and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seglens.backbones import Backbone, GenerationOptions, QuestionError, load_backbone
from seglens.backbones.generation import StreamingCriterion, before_stop
from seglens.core.interruption import GivenUpError, interruptible
from seglens.core.types import Sample
from seglens.inference.segmenter import Segmenter
from tiny import KINDS

QUESTION = "what is in the picture ?"
IMAGES = [np.random.default_rng(k).integers(0, 256, (50 + k, 90, 3), dtype=np.uint8) for k in range(2)]
TOKENS = 9


@pytest.fixture(scope="module")
def loaded(family: Path) -> Backbone:
    return load_backbone(family, **{**KINDS[family.name].options, "dtype": torch.float32}, as_is=True)


def plain(backbone: Backbone, images: list[np.ndarray]) -> tuple[str, int, int]:
    """What transformers answers by itself: words, and how many tokens it read and wrote."""
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": QUESTION}]
    talk = [{"role": "user", "content": content}]
    text = backbone.processor.apply_chat_template(talk, add_generation_prompt=True)
    pictures = [Image.fromarray(image) for image in images] or None
    begin = text.startswith(backbone.processor.tokenizer.bos_token or "<none>")  # as `apply_chat_template` decides
    inputs = backbone.processor(images=pictures, text=text, return_tensors="pt", add_special_tokens=not begin)
    with torch.no_grad():
        output = backbone.module.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)[0]
    read = inputs["input_ids"].shape[1]
    written = sum(token not in backbone.chat.end_tokens for token in output[read:].tolist())
    return backbone.processor.decode(output[read:], skip_special_tokens=True).strip(), read, written


@pytest.mark.parametrize("count", [0, 1, 2])
def test_about_any_number_of_images(loaded: Backbone, count: int) -> None:
    images = IMAGES[:count]
    pieces = list[str]()
    answer = loaded.generate_text(images, QUESTION, GenerationOptions(TOKENS, on_text=pieces.append))
    assert (answer.text, answer.read, answer.written) == plain(loaded, images)
    assert "".join(pieces) == answer.text
    assert answer.whole == (answer.written < TOKENS)
    if count == 1:
        assert answer.text == loaded.generate(IMAGES[0], QUESTION, TOKENS)


def test_more_images_than_fit_are_refused(loaded: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    read = loaded.generate_text(IMAGES[:1], QUESTION, GenerationOptions(1)).read
    monkeypatch.setattr(loaded.module.config.get_text_config(), "max_position_embeddings", read)
    assert loaded.generate_text(IMAGES[:1], QUESTION, GenerationOptions(1)).read == read
    with pytest.raises(QuestionError, match="show it fewer than 2 images"):
        loaded.generate_text(IMAGES, QUESTION, GenerationOptions(1))


# ---------------------------------------------------------------- of the embedded model, which writes real words


@pytest.fixture(scope="module")
def embedded_backbone(segmenter: Segmenter) -> Backbone:
    return segmenter.backbone


def test_words_are_passed_on_one_after_the_other(embedded_backbone: Backbone, scene: Sample) -> None:
    pieces = list[str]()
    answer = embedded_backbone.generate_text([scene.image], QUESTION, GenerationOptions(40, pieces.append))
    assert "".join(pieces) == answer.text
    assert len(pieces) > 4
    assert answer.whole


def test_an_answer_ends_before_a_text(embedded_backbone: Backbone, scene: Sample) -> None:
    whole = embedded_backbone.generate_text([scene.image], QUESTION, GenerationOptions(40))
    stop = whole.text.split()[3]
    pieces = list[str]()
    cut = embedded_backbone.generate_text(
        [scene.image], QUESTION, GenerationOptions(40, pieces.append, stop=["never", stop])
    )
    assert cut.text == "".join(pieces) == before_stop(whole.text, [stop])
    assert cut.whole
    assert cut.written < whole.written  # it was not generated to its end


def test_an_answer_that_was_given_up_ends_at_a_token(embedded_backbone: Backbone, scene: Sample) -> None:
    pieces = list[str]()

    def check() -> None:
        if len(pieces) > 2:
            raise GivenUpError("nobody waits")

    with interruptible(check), pytest.raises(GivenUpError):
        embedded_backbone.generate_text([scene.image], QUESTION, GenerationOptions(40, pieces.append))
    assert len(pieces) == 3


def listen(texts: list[str], stop: tuple[str, ...] = ()) -> list[str]:
    """The pieces of an answer whose first k tokens read as the k-th text."""
    passed = list[str]()
    criterion = StreamingCriterion(
        GenerationOptions(on_text=passed.append, stop=stop), lambda ids: texts[len(ids) - 1], 0
    )
    for count in range(1, len(texts) + 1):
        if criterion(torch.zeros(1, count, dtype=torch.long), None)[0]:
            break
    criterion.finish(before_stop(texts[-1], stop))
    return passed


def test_text_that_may_still_change_is_not_passed_on() -> None:
    assert listen(["a", "a\ufffd", "aé", "aé \n", "aé \nb"]) == ["a", "é", " \nb"]
    assert listen(["one", "one EN", "one END", "one END of"], ("END",)) == ["one", " "]
    assert listen(["one", "one EN", "one ENOUGH"], ("END",)) == ["one", " ENOUGH"]
    assert listen(["a b", "a b,"]) == ["a b", ","]
