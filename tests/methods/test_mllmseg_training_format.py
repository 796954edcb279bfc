"""The form of MLLMSeg's training: its authors' words, which are not those of their evaluation.

Strings and rules are facts of jcwang0602/MLLMSeg at a28db02: `mllmseg/constants.py` (SHORT_QUESTION_LIST_MODE4,
ANSWER_LIST_MODE4_*), `mllmseg/dataset_sub_refer_seg.py` (how they are put together) and, for JPEG, `build_transform` of
its `dataset.py`.
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seglens.backbones import Backbone, load_backbone
from seglens.core.types import Sample, Target
from seglens.data.world import WorldData
from seglens.inference.frozen_models import Parts
from seglens.methods.mllmseg import PRESETS, MLLMSeg, MLLMSegConfig, build_mllmseg
from seglens.training.config import TrainConfig
from seglens.training.example_stream import tuned_stream
from seglens.training.presets import Recipe
from seglens.training.setup import prepare
from seglens.training.tuned_examples import ExampleMaker, TunedExample, through_jpeg
from tiny import KINDS

TINY = replace(PRESETS["authors"].config, width=16, heads=2, feed_forward=16, subpixels=2, rank=2)
REQUESTS = {  # of "the red Cup." and "left dog": in one question, in lower case, without the full stop
    "Can you segment the red cup, left dog in this image?",
    "Please segment the red cup, left dog in this image.",
    "What are the red cup, left dog in this image? Please respond with segmentation masks.",
    "What are the red cup, left dog in this image? Please output segmentation masks.",
}
ANSWERS = {  # an item for each query, as written in the data
    "The segmentation results are the red Cup [SEG], left dog [SEG].",
    "Sure, they are the red Cup:[SEG], left dog:[SEG].",
    "Sure, the mask of the red Cup is [SEG], the mask of left dog is [SEG].",
    "Sure, the segmentation of the red Cup is [SEG], the segmentation of left dog is [SEG].",
    "Sure, the referred the red Cup is [SEG], the referred left dog is [SEG].",
}
REFUSALS = {  # where the dog is absent
    "The segmentation results are the red Cup [SEG], left dog [REJ].",
    "Sure, they are the red Cup:[SEG], left dog:[REJ].",
    "Sure, the mask of the red Cup is [SEG], the mask of left dog is [REJ].",
    "Sure, the segmentation of the red Cup is [SEG], the segmentation of left dog is [REJ].",
    "Sure, the referred the red Cup is [SEG], the referred left dog is [REJ].",
}


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    KINDS["internvl"].save(folder := tmp_path_factory.mktemp("kinds") / "internvl")
    return folder


@pytest.fixture(scope="module")
def backbone(internvl: Path) -> Backbone:
    return load_backbone(internvl, attn_implementation="eager")


def maker(backbone: Backbone, config: MLLMSegConfig = TINY) -> ExampleMaker:
    head = build_mllmseg(config, backbone)
    return ExampleMaker(head.mllm, None, head.mask_side, head.training_format, seed=3)


def sample(*queries: str, absent: tuple[int, ...] = (), side: int = 40) -> Sample:
    masks = [np.full((side, side), n not in absent) for n in range(len(queries))]
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Sample("one", image, tuple(map(Target, queries, masks)))


def spelt(backbone: Backbone, ids: Any) -> str:
    """Text, new tokens by their names."""
    first = backbone.module.get_output_embeddings().weight.shape[0]
    names = {first: "[SEG]", first + 1: "[REJ]"}
    decode = backbone.prompts.processor.tokenizer.decode
    return "".join(names[token] if token in names else decode([token]) for token in ids)


@pytest.mark.parametrize(("absent", "expected"), [((), ANSWERS), ((1,), REFUSALS)])
def test_the_words_are_the_authors(backbone: Backbone, absent: tuple[int, ...], expected: set[str]) -> None:
    """Over many lessons all questions and all answers occur, and none besides."""
    examples, pictured = maker(backbone), sample("the red Cup.", "left dog", absent=absent)
    questions, answers, pairs = set(), set(), set()
    for number in range(150):
        words = examples.example(pictured, number=number).answers[0]
        ids = list(zip(words.ids, words.learnt, strict=True))
        question, answer = (
            spelt(backbone, [i for i, learnt in ids if learnt == is_answer]) for is_answer in (False, True)
        )
        questions.add(question)
        answers.add(answer)
        pairs.add((question, answer))
    after = {spelt(backbone, backbone.prompts.after(text)): text for text in REQUESTS}
    assert questions == {*after}
    end = spelt(backbone, examples.mllm.answer_tokens._end)  # type: ignore[attr-defined]
    assert answers == {text + end for text in expected}
    assert len(pairs) == 4 * 5  # a question and an answer are drawn apart


def test_one_answer_is_learnt_once(backbone: Backbone) -> None:
    """Each query has its own place in the words of all, and the first of them learns these."""
    pictured = sample("cup", "dog", "lamp", absent=(2,))
    example = maker(backbone).example(pictured, number=7)
    assert len({words.ids for words in example.answers}) == 1
    assert [spelt(backbone, [words.ids[words.places[0]]]) for words in example.answers] == ["[SEG]", "[SEG]", "[REJ]"]
    assert [any(words.learnt) for words in example.answers] == [True, False, False]
    places = [words.places[0] for words in example.answers]
    assert places == sorted(places)
    tally = example.totals()
    assert (tally.present, tally.valid, tally.answered, tally.tokens) == (2, 3, 1, sum(example.answers[0].learnt))
    batch = TunedExample.batch([example])
    assert batch.truth.totals() == tally


def test_a_conversation_has_five_queries_at_most(backbone: Backbone) -> None:
    """Twelve queries are three conversations, others together in the next lesson; words and explanations stay alone."""
    queries = [f"thing {n}" for n in range(12)]
    examples, pictured = maker(backbone), sample(*queries)

    def together(number: int) -> list[frozenset[int]]:
        answers = examples.example(pictured, number=number).answers
        return sorted({frozenset(n for n, w in enumerate(answers) if w.ids == one.ids) for one in answers}, key=min)

    assert sorted(map(len, together(0))) == [2, 5, 5]
    assert together(0) == together(0)
    assert together(0) != together(1)
    nothing = np.zeros((40, 40), bool)
    spoken = Target("how many are there?", nothing, answer="two", spoken=True)
    mixed = replace(pictured, targets=(pictured.targets[0], spoken, *pictured.targets[1:3]))
    answers = examples.example(mixed).answers
    assert [words.spoken for words in answers] == [False, True, False, False]
    assert answers[1] == maker(backbone, MLLMSegConfig(**vars(replace(TINY, **PLAIN)))).example(mixed).answers[1]


PLAIN: dict[str, Any] = {
    "conversation": 1,
    "taught_requests": (),
    "taught_openings": (),
    "taught_items": (),
    "jpeg": (),
}


def test_it_is_used_with_the_authors_evaluation_sentence(backbone: Backbone) -> None:
    """Whatever it is taught with: what is read, and what a training validates on."""
    taught, plain = (build_mllmseg(config, backbone) for config in (TINY, replace(TINY, **PLAIN)))
    question = taught.mllm.answer_tokens.question("the cup")  # type: ignore[attr-defined]
    assert question == plain.mllm.answer_tokens.question("the cup")  # type: ignore[attr-defined]
    assert spelt(backbone, question.ids).endswith("Sure,the cup:[SEG]")
    assert "What are the cupin this image? Please output segmentation masks." in spelt(backbone, question.ids)
    assert plain.training_format is None


def test_pictures_pass_jpeg_of_75_to_100(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, whatever the number of the lesson; each quality as likely as another, and none in validation."""
    examples, pictured = maker(backbone), sample("cup")
    file = BytesIO()
    Image.fromarray(pictured.image).save(file, "JPEG", quality=80)
    assert np.array_equal(through_jpeg(pictured.image, 80), np.asarray(Image.open(file)))
    qualities: list[int] = []

    def noted(image: np.ndarray, quality: int) -> np.ndarray:
        qualities.append(quality)
        return through_jpeg(image, quality)

    monkeypatch.setattr("seglens.training.tuned_examples.through_jpeg", noted)
    pixels = [examples.example(pictured, number=number).pixels for number in range(260)]
    assert {*qualities} == set(range(75, 101))
    assert torch.equal(pixels[5], examples.mllm.pixels(through_jpeg(pictured.image, qualities[5])))
    clean = ExampleMaker(examples.mllm, None, examples.mask_side).example(pictured)
    assert torch.equal(clean.pixels, examples.mllm.pixels(pictured.image))
    assert len(qualities) == 260


def test_each_state_follows_the_words_before_it(backbone: Backbone) -> None:
    """The second [SEG] is read after the first; the text is learnt once; everything can be trained."""
    torch.manual_seed(0)
    head = build_mllmseg(replace(TINY, dropout=0.0), backbone)
    examples = ExampleMaker(head.mllm, None, head.mask_side, head.training_format)
    batch = TunedExample.batch([examples.example(sample("cup", "dog")), examples.example(sample("lamp", "cat", "dog"))])
    read = head.mllm.teach(batch.inputs)  # type: ignore[arg-type]
    assert read.text_loss is not None
    assert (read.text_loss > 0).tolist() == [[True, False, False], [True, False, False]]
    assert not torch.equal(read.segment[0, 0], read.segment[0, 1])
    terms = head.losses(head.decode(read, None), batch.truth)
    tokens = batch.truth.tokens
    assert tokens is not None
    expected = (read.text_loss[:, 0] * tokens[:, 0]).sum() / tokens[:, 0].sum()
    assert terms["text"].item() == pytest.approx(expected.item(), rel=1e-6)
    answers = MLLMSeg(replace(TINY, text_mean="answers"), head.mllm).losses(head.decode(read, None), batch.truth)
    assert answers["text"].item() == pytest.approx(read.text_loss[:, 0].mean().item(), rel=1e-6)


@pytest.mark.slow
def test_training_uses_the_training_format_and_validation_does_not(internvl: Path, tmp_path: Path) -> None:
    data = "world:n=3,seed=3,split=train,queries=6"
    training = TrainConfig(steps=2, images=2, warmup=1, save_every=2, mixed_precision="no")
    run = prepare(Recipe(TINY, training, backbone=str(internvl)), data, tmp_path, exam="world:n=1,seed=2,queries=2")
    first, again = (run.stream.example(number) for number in (0, 3))  # an epoch has three images
    assert max(sum(words.ids == one.ids for words in first.answers) for one in first.answers) == 5  # type: ignore[attr-defined]
    parts = Parts(load_backbone(internvl), None)
    stream = tuned_stream(parts, WorldData(n=3, seed=3, split="train", queries=6), data, run.head, 0)  # type: ignore[arg-type]
    assert stream.example(0).answers == first.answers  # type: ignore[attr-defined]
    assert {words.ids for words in first.answers} != {words.ids for words in again.answers}  # type: ignore[attr-defined]
    example = run.validation.example(0, (0, 1))  # type: ignore[union-attr]
    assert len({words.ids for words in example.answers}) == 2  # type: ignore[attr-defined]
    terms = run.run(tmp_path, quiet=True)
    assert all(np.isfinite(list(terms.values())))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taught_requests": ()}, "taught_requests="),
        ({"taught_requests": ("Segment.",)}, "each needs one {}"),
        ({"taught_items": ("{} [SEG]",)}, "an item for each opening"),
        ({"taught_openings": ("Sure, ",), "taught_items": ("{} [REJ][SEG]",)}, "one {} and one"),
        ({"jpeg": (75,)}, "jpeg=.75.; it needs two qualities"),
        ({"jpeg": (90, 80)}, "it needs two qualities"),
        ({"conversation": 0}, "conversation=0; it must be a whole number above 0"),
        ({"taught_requests": (), "taught_openings": (), "taught_items": ()}, "without words to teach"),
    ],
)
def test_an_invalid_training_format_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)
