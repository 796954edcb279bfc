"""A head changes nothing of the MLLM's text: the same words, and so the same scores, as from transformers alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from seglens.data.world import WorldData
from seglens.evaluation.embedded_checks import vqa
from seglens.evaluation.vqa import BENCHMARKS, BenchmarkQuestion, run
from seglens.inference.segmenter import Segmenter
from shared import shared

TOKENS = 16


@pytest.fixture(scope="module")
def questions() -> list[tuple[str, BenchmarkQuestion]]:
    """Real photographs of MME and POPE, and the world's own scenes, where the answers differ from each other."""
    roots = {"mme": shared("general/mme/mini"), "pope": shared("general/pope/mini"), "world-vqa": "n=4,seed=2"}
    return [(name, question) for name, root in roots.items() for question in BENCHMARKS[name].read(str(root))]


@pytest.fixture(scope="module")
def bare(plain: Path, questions: list[tuple[str, BenchmarkQuestion]]) -> dict[str, str]:
    """What plain transformers answers: its own class, its own processor, its own `generate`."""
    name = plain / "mllm"
    model = LlavaForConditionalGeneration.from_pretrained(name, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(name, backend="pil")
    answers = {}
    for _, question in questions:
        content = [{"type": "image"}, {"type": "text", "text": question.prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(images=question.picture(), text=text, return_tensors="pt")
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        answer = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answers[question.id] = answer.strip()
    return answers


# what `ask` warns of beside the answer: the pictures and words are of benchmarks, not of the drawn world
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The (picture|words?) :UserWarning")
def test_the_head_leaves_every_answer_as_it_was(
    segmenter: Segmenter, questions: list[tuple[str, BenchmarkQuestion]], bare: dict[str, str]
) -> None:
    """14 questions of MME, 24 of POPE, 4 scenes; a mask is made between two answers, as in use."""
    assert len(set(bare.values())) > 5  # a model that always gives the same answer would prove nothing
    for number, (_, question) in enumerate(questions):
        image = question.picture()
        if number % 10 == 0:
            assert np.isfinite(segmenter.segment(image, "the red thing").mask_logits).all()
        assert segmenter.ask(image, question.prompt, TOKENS) == bare[question.id], question.id


@pytest.mark.slow
def test_so_the_scores_are_equal(
    segmenter: Segmenter, questions: list[tuple[str, BenchmarkQuestion]], bare: dict[str, str]
) -> None:
    for name, benchmark in BENCHMARKS.items():
        own = [question for of, question in questions if of == name]
        if own:
            answers = run(segmenter.backbone.generate, own, TOKENS)
            assert benchmark.score(own, answers) == benchmark.score(own, bare)


@pytest.mark.slow
def test_the_world_scores_as_in_the_exam(segmenter: Segmenter) -> None:
    """`seglens eval` asks the same questions and counts the same way."""
    benchmark = BENCHMARKS["world-vqa"]
    questions = benchmark.read("n=6,seed=4")
    scores = benchmark.score(questions, run(segmenter.backbone.generate, questions, benchmark.max_new_tokens))
    exam = vqa(segmenter.backbone, WorldData(n=6, seed=4))
    assert scores["questions"] == exam["questions"]
    assert round(scores["accuracy"], 4) == exam["accuracy"]
    assert {kind: round(value, 4) for kind, value in scores["by_category"].items()} == exam["by_kind"]
    assert scores["accuracy"] > 0.7


def test_only_the_world_is_taken_for_the_world() -> None:
    with pytest.raises(ValueError, match="n=0"):
        BENCHMARKS["world-vqa"].read("n=0")
    with pytest.raises(ValueError, match="did you mean 'seed'"):
        BENCHMARKS["world-vqa"].read("sed=1")
