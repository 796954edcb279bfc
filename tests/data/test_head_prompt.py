"""One contract: a head is asked in the words of its training, wherever it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seglens.agent import Agent
from seglens.backbones import load_backbone
from seglens.checkpoints.config import read_config
from seglens.core.tuning_types import AnswerTemplates, Tuning
from seglens.core.types import Sample
from seglens.data import load_data
from seglens.data.head_prompt import AS_IT_STANDS, HeadPrompt, is_sentence
from seglens.data.sampling import Mixed
from seglens.evaluation.evaluate import run
from seglens.evaluation.open_vocabulary import strongest_class
from seglens.inference.segmenter import Segmenter
from seglens.serving.limits import Limits
from seglens.serving.tools.tool_images import ImageReader
from seglens.serving.tools.tool_service import ToolService
from seglens.training.presets import Recipe, recipe
from seglens.training.setup import open_data, prepare
from tiny import KINDS
from train_run import LONG, SMALL

LENS = HeadPrompt("What is {query} in this image?", " {query}")
TOLD = "what is in the picture ?"  # a system text in words that the tiny tokenizer knows
TEST = "world:n=2,seed=5,queries=2"


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    "query",
    [
        "the red cup",
        "a man to the left of the tree",
        "red",
        "person with an umbrella",
        "stripes on the zebra.",
        "the part of the chair that one leans against",
        "left",
    ],
)
def test_names_of_things_are_no_sentences(query: str) -> None:
    assert not is_sentence(query)


@pytest.mark.parametrize(
    "query",
    [
        "Which of these can hold water?",
        "please mark the dog",
        "segment the red cup",
        "where is the milk",
        "I am thirsty and want something to drink.",
        "Show me what cuts!",
        "the thing to drink from, which one?",
        "In cooking one needs a thing that keeps the heat from the hand while the pot is moved",
    ],
)
def test_requests_and_questions_are(query: str) -> None:
    assert is_sentence(query)


def test_the_kind_of_the_data_counts_before_the_words() -> None:
    assert LENS.apply("the red cup") == "What is the red cup in this image?"
    assert LENS.apply("the red cup", "sentence") == " the red cup"
    assert LENS.apply("Which of these holds water?") == " Which of these holds water?"
    assert LENS.apply("Which of these holds water?", "phrase") == "What is Which of these holds water? in this image?"
    assert LENS.apply("the red cup", AS_IT_STANDS) == "the red cup"
    assert LENS.apply(" ") == " "  # refused as what it is


def test_mllmseg_asks_in_lower_case_without_full_stops() -> None:
    theirs = HeadPrompt.of("mllmseg")
    assert theirs is not None
    assert theirs.apply(" The Red Cup. ", "phrase") == "the red cup"
    assert theirs.apply("A man. On a horse...", "class") == "a man. on a horse"


def test_bare_training_leaves_no_trace() -> None:
    assert HeadPrompt.of("none") is None
    assert HeadPrompt.of("none", TOLD) == HeadPrompt(system=TOLD)
    assert HeadPrompt(system=TOLD).apply(" The cup ") == " The cup "
    with pytest.raises(ValueError, match=r"needs one \{query\} in place of the query"):
        HeadPrompt(short="the cup")
    with pytest.raises(ValueError, match="lens"):
        HeadPrompt.of("lense")


# ---------------------------------------------------------------- a head


@pytest.fixture(scope="module")
def small(llava: Path, sam: Path) -> Recipe:
    return Recipe(SMALL, replace(LONG, steps=1, save_every=1), str(llava), str(sam), system={"llava": TOLD})


@pytest.fixture(scope="module")
def folder(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that was trained in LENS's templates after a system text."""
    out = tmp_path_factory.mktemp("asked")
    prepare(small, "world:n=2,seed=3,split=train,queries=2,prompt=lens", out, exam=TEST).run(out, quiet=True)
    return out / "head"


@pytest.fixture
def taught(folder: Path) -> Segmenter:
    return Segmenter.from_pretrained(folder)


@pytest.fixture
def questions_read(taught: Segmenter, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that the MLLM reads, word by word."""
    return listen(taught, monkeypatch)


def listen(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    questions_read, read = list[str](), segmenter.reader.read_many

    def watched(images: Any, questions: Sequence[Sequence[str]]) -> Any:
        questions_read.extend(question for some in questions for question in some)
        return read(images, questions)

    monkeypatch.setattr(segmenter.reader, "read_many", watched)
    return questions_read


ASKERS: dict[str, Callable[[Segmenter, np.ndarray, str], Any]] = {
    "one": lambda segmenter, image, query: segmenter.segment(image, query),
    "many": lambda segmenter, image, query: segmenter.segment([image], [[query]]),
    "tool service": lambda segmenter, image, query: ToolService(segmenter, ImageReader(Limits(), files=False)).segment(
        image, [query]
    ),
    "agent": lambda segmenter, image, query: Agent(segmenter).start(image).say(query, route="segmentation"),
}


@pytest.mark.parametrize("asker", ASKERS)
def test_every_caller_uses_the_prompt(
    asker: str, taught: Segmenter, questions_read: list[str], picture: np.ndarray
) -> None:
    ASKERS[asker](taught, picture, "the red cup")
    ASKERS[asker](taught, picture, "please segment the red cup")
    assert questions_read == ["What is the red cup in this image?", " please segment the red cup"]


def test_a_prediction_names_the_query_without_its_template(taught: Segmenter, picture: np.ndarray) -> None:
    prediction = taught.segment(picture, "the red cup", trust=True)
    assert prediction.query == "the red cup"
    assert prediction.unknown_words == ()


def test_evaluation(taught: Segmenter, questions_read: list[str]) -> None:
    """By the kinds of the data; a query that the data put in a template is asked like that, bare queries too."""
    samples = list(load_data(TEST))
    run(taught, samples)
    targets = [target for sample in samples for target in sample.drawn().targets]
    assert questions_read == [LENS.apply(target.query, target.kind) for target in targets]
    for preset, template in (("none", "{}"), ("lens-eval", "What is {} in this image?")):
        questions_read.clear()
        run(taught, load_data(f"{TEST},prompt={preset}"))
        assert questions_read == [template.format(target.query) for target in targets]


def test_classes(taught: Segmenter, questions_read: list[str], picture: np.ndarray) -> None:
    strongest_class(taught.open(picture), ["cup", "what"])
    assert questions_read == ["What is cup in this image?", "What is what in this image?"]


def test_the_exam_of_a_training(small: Recipe, folder: Path, tmp_path: Path) -> None:
    """It uses the words in which the head is asked later, and is stored under another name."""
    data = "world:n=2,seed=3,split=train,queries=2"
    course = prepare(small, f"{data},prompt=lens", tmp_path, exam=TEST)
    assert course.validation is not None
    backbone = load_backbone(str(small.backbone)).with_system_text(TOLD)
    sample = load_data(TEST)[0].drawn()
    read = backbone.read(backbone.open(sample.image), [LENS.apply(t.query, t.kind) for t in sample.targets])
    lengths = read.question_mask[0].sum(-1).tolist()
    questions = course.validation.example(0, tuple(range(course.validation.questions(0)))).questions  # type: ignore[attr-defined]
    assert [len(one.rows) for one in questions] == lengths
    assert all(torch.equal(one.rows, read.question[0, n, : lengths[n]]) for n, one in enumerate(questions))
    assert course.config.prompt == replace(LENS, system=TOLD)
    plain = prepare(replace(small, system={}), data, tmp_path / "plain", exam=TEST)
    assert plain.config.prompt is None
    names = {path.name for folder in (tmp_path, tmp_path / "plain") for path in (folder / "features").iterdir()}
    assert len(names) == 4


def test_the_system_text_is_used_to_segment_and_not_in_the_chat(folder: Path, small: Recipe) -> None:
    config, segmenter = read_config(folder), Segmenter.from_pretrained(folder)
    assert config.prompt == replace(LENS, system=TOLD)
    plain = load_backbone(str(small.backbone))
    with_system = segmenter.backbone
    assert with_system.reading.text("x").count(TOLD) == 1
    assert with_system.prompts.text("x") == plain.prompts.text("x") == plain.reading.text("x")
    image = np.zeros((20, 30, 3), np.uint8)
    assert torch.equal(
        with_system.chat_inputs(image, "what ?")["input_ids"], plain.chat_inputs(image, "what ?")["input_ids"]
    )
    assert with_system.open(image).prefix.shape[1] > plain.open(image).prefix.shape[1]
    changed = {key for key, value in with_system.signature().items() if value != plain.signature()[key]}
    assert changed == {"template"}  # so that cached features of the one are none of the other


def test_an_mllm_that_does_not_know_the_words_gets_no_system_text(small: Recipe, tmp_path: Path) -> None:
    strange = replace(small, system={"llava": "A chat between a curious user and an artificial intelligence."})
    course = prepare(strange, "world:n=1,seed=3,split=train,queries=1", tmp_path)
    assert course.config.prompt is None


def test_a_recipes_templates_hold_for_any_data(small: Recipe) -> None:
    """SELF1E's and LISA's published settings leave the request to the data's templates: bare queries get them too."""
    with_template = replace(small, prompt="lisa", negatives=0.0)
    data, text = open_data("world:n=1,seed=3,split=train,queries=1", with_template)
    assert not isinstance(data, Mixed)
    assert text == "world:n=1,seed=3,split=train,queries=1,prompt=lisa"
    assert data[0].targets[0].prompted
    assert open_data(f"{text[:-4]}none", with_template)[1].endswith("prompt=none")
    for method in ("self1e", "lisa"):
        assert recipe("authors", method).prompt == "lisa"
        assert recipe("authors", method).method.request == "{}"


def test_a_head_without_a_prompt_gets_bare_queries(
    segmenter: Segmenter, scene: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded heads have none."""
    assert segmenter.config.prompt is None
    questions = listen(segmenter, monkeypatch)
    queries = [" The red cup. ", "where is it?", "the red cup"]
    segmenter.segment(scene.image, queries)
    assert questions == queries
    run(segmenter, [scene])
    assert questions[3:] == [target.query for target in scene.drawn().targets]


# ---------------------------------------------------------------- every kind of MLLM


def test_the_system_text_is_where_the_chat_template_puts_it(family: Path) -> None:
    """Token for token as the model's own processor puts the two messages together."""
    backbone = load_backbone(family, **KINDS[family.name].options).with_system_text(TOLD)
    picture = {"type": "image", "image": Image.new("RGB", (8, 8))}
    talk = [
        {"role": "system", "content": TOLD if "glm" in family.name else [{"type": "text", "text": TOLD}]},
        {"role": "user", "content": [picture, {"type": "text", "text": "the red cup"}]},
    ]
    inputs = backbone.processor.apply_chat_template(
        talk, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )["input_ids"][0].tolist()
    image = backbone.module.config.image_token_id
    first, last = inputs.index(image), len(inputs) - inputs[::-1].index(image)
    assert backbone.reading.before() == inputs[:first]
    assert backbone.reading.after("the red cup") == inputs[last:]


def test_a_method_that_tunes_its_mllm_gets_the_system_text_too(llava: Path) -> None:
    """In its copy, in what it is taught and in what it reads."""
    with_system = (
        load_backbone(llava).with_system_text(TOLD).adapt(Tuning(("[SEG]",), rank=0), AnswerTemplates(("[SEG]",)))
    )
    plain = load_backbone(llava).adapt(Tuning(("[SEG]",), rank=0), AnswerTemplates(("[SEG]",)))
    image = np.zeros((20, 30, 3), np.uint8)
    more = len(with_system.answer_tokens.prompts.before()) - len(plain.answer_tokens.prompts.before())
    assert more >= len(TOLD.split())
    assert with_system.open(image).vision.rows.shape[1] == plain.open(image).vision.rows.shape[1] + more
    assert with_system.words("the red cup") == plain.words("the red cup")
