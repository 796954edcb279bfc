"""What a model does not understand, it refuses in words: pictures of another kind, and words outside its vocabulary."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from command import Run
from seglens.agent import Agent
from seglens.backbones import load_backbone
from seglens.backbones.familiarity import FILE
from seglens.backbones.unknown_words import Vocabulary
from seglens.checkpoints.origin import embedded_folder
from seglens.core.schema import Click
from seglens.core.types import Sample, Target
from seglens.embedded.familiarity_stage import variants
from seglens.embedded.odd_pictures import odd_picture
from seglens.evaluation.evaluate import run
from seglens.evaluation.summary import understood
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter
from seglens.serving.limits import Limits
from seglens.serving.tools.tool_images import ImageReader
from seglens.serving.tools.tool_service import ToolService
from seglens.world.language import speaker
from seglens.world.world import World
from shared import shared

MODELS = embedded_folder("embedded").parent


def vocabulary(model: str) -> Vocabulary:
    return Vocabulary(AutoTokenizer.from_pretrained(MODELS / model))


@pytest.fixture(scope="module")
def odd() -> np.ndarray:
    """A picture that is none of the world's."""
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def unfamiliar(segmenter: Segmenter, odd: np.ndarray) -> OpenedImage:
    return segmenter.open(odd)


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("the xyzzy", ["xyzzy"]),
        ("The guitar, the GUITAR and the cup", ["guitar", "GUITAR"]),
        ("猫", ["猫"]),
        ("the 🐱 on the left", ["🐱"]),
        ("the red-guitar", ["guitar"]),
        ("the guitar's cup", ["guitar"]),
        ("the cup's handle", []),
        ("“the cup”… (left); the-cup!", []),
        ("THE CUP - the 2 cups, 10 % of them?", ["10"]),
        ("a cup\n and\tthe\u00a0dog", []),
    ],
)
def test_words_outside_the_vocabulary_are_named_as_they_are_spelt(text: str, unknown: Sequence[str]) -> None:
    assert list(vocabulary("mllm").unknown(text)) == unknown


def test_a_tokenizer_of_bytes_knows_every_word() -> None:
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE({**alphabet, "<unk>": len(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert Vocabulary(plain).unknown("the xyzzy 猫 🐱 <unk>") == ()


def test_other_families_know_every_word_of_theirs(family: Path) -> None:
    """The tiny tokenizers of the tests know bytes, as the real ones do, or only words; neither names a known one."""
    assert load_backbone(family).prompts.unknown("the red cup") in ((), ("red",), ("the", "red", "cup"))


def test_an_unknown_word_is_no_target(opened: OpenedImage, scene: Sample) -> None:
    query = next(target.query for target in scene.targets if target.present)
    unknown, known = opened.segment([f"{query} xyzzy", query])
    assert not unknown.found
    assert not unknown.mask.any()
    assert unknown.score is None
    assert unknown.unknown_words == ("xyzzy",)
    assert "'xyzzy'" in (unknown.reason or "")
    assert known.found
    assert (known.reason, known.unknown_words) == (None, ())
    trusted = opened.segment(f"{query} xyzzy", trust=True)
    assert trusted.unknown_words == ("xyzzy",)
    assert trusted.found == bool(trusted.mask.any()) == (trusted.reason is None)
    assert trusted.mask.any()


def test_the_models_know_all_words_of_the_drawn_world() -> None:
    for model, people in (("mllm", True), ("internvl", False)):
        known = vocabulary(model)
        for index in range(30):
            world = World("test", 4)
            questions = speaker(world, index, world.scene(index))
            for kind in ("name", "attribute", "part", "absent"):
                query = questions.query(kind)
                assert query is None or known.unknown(query.text) == (), (model, people)


# ---------------------------------------------------------------- pictures


def share(segmenter: Segmenter, images: Sequence[np.ndarray]) -> float:
    """Of pictures that are flagged."""
    return float(np.mean([segmenter.backbone.familiar(image) is False for image in images]))


def scenes(count: int, seed: int) -> list[np.ndarray]:
    return [World("test", seed).scene(index).image for index in range(count)]


def test_drawn_scenes_are_familiar(segmenter: Segmenter) -> None:
    assert share(segmenter, scenes(60, 31)) == 0


def test_so_are_they_resized_compressed_padded_cut_or_mirrored(segmenter: Segmenter) -> None:
    rng = np.random.default_rng(0)
    changed = [variants(image, rng) for image in scenes(15, 32)]
    assert share(segmenter, [one for each in changed for name, one in each.items() if name != "grey"]) <= 0.02
    assert share(segmenter, [each["grey"] for each in changed]) <= 0.2


def test_photographs_are_not(segmenter: Segmenter) -> None:
    files = sorted(shared("coco/train2017").glob("*.jpg"))
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    assert share(segmenter, images) >= 0.98


def test_nor_is_what_no_world_shows(segmenter: Segmenter) -> None:
    assert share(segmenter, [odd_picture(77, index) for index in range(20)]) >= 0.9


@pytest.mark.parametrize("head", ["embedded/mllmseg", "embedded/lisa"])
def test_heads_that_tune_their_mllm_give_the_same(head: str, scene: Sample, odd: np.ndarray) -> None:
    segmenter = Segmenter.from_pretrained(head)
    for image in (scene.image, odd):
        assert segmenter.open(image).familiar == segmenter.backbone.familiar(image) == (image is scene.image)


def test_other_models_carry_no_statistic(llava: Path, odd: np.ndarray) -> None:
    backbone = load_backbone(llava)
    assert backbone.familiar(odd) is None
    assert backbone.open(odd).familiar is None


def test_a_damaged_statistic_is_refused_by_name(tmp_path: Path) -> None:
    for file in (MODELS / "mllm").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / FILE).read_bytes())
    data[-100] ^= 1
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(ValueError, match=FILE):
        load_backbone(tmp_path)


def test_an_unfamiliar_picture_shows_no_mask_unless_it_is_trusted(unfamiliar: OpenedImage) -> None:
    refused = unfamiliar.segment("the horse", each=True)
    assert not refused.found
    assert not refused.mask.any()
    assert refused.things == refused.instances == ()
    assert refused.familiar is False
    assert refused.score is None
    assert "photographs" in (refused.reason or "")
    answer = json.loads(json.dumps(refused.to_dict(), allow_nan=False))
    assert (answer["found"], answer["familiar"], answer["score"], answer["box"]) == (False, False, None, None)
    trusted = unfamiliar.segment("the horse", trust=True)
    assert trusted.familiar is False
    assert trusted.found == bool(trusted.mask.any()) == (trusted.score is not None) == (trusted.reason is None)


def test_a_click_is_drawn_on_any_picture(unfamiliar: OpenedImage) -> None:
    refined = unfamiliar.refine(unfamiliar.segment("the xyzzy"), [Click(x=80, y=60)])
    assert refined.mask[60, 80]
    assert refined.found
    assert refined.reason is None
    assert refined.score is not None
    assert (refined.familiar, refined.unknown_words) == (False, ("xyzzy",))


def test_an_evaluation_counts_what_a_user_gets(segmenter: Segmenter, odd: np.ndarray, scene: Sample) -> None:
    mask = np.zeros(odd.shape[:2], bool)
    mask[:40, :40] = True
    records = run(segmenter, [Sample("odd", odd, (Target("the cup", mask), Target("the xyzzy", mask))), scene])
    assert not any(record.found or record.predicted for record in records[:2])
    numbers = understood(records)
    assert (numbers["images"], numbers["unfamiliar"]) == (2, 0.5)
    assert numbers["queries_with_unknown_words"] == round(1 / len(records), 4)


# ---------------------------------------------------------------- surfaces


@pytest.fixture
def file(tmp_path: Path, odd: np.ndarray) -> Path:
    Image.fromarray(odd).save(tmp_path / "odd.png")
    return tmp_path / "odd.png"


def test_the_command_line_prints_the_reason(seglens: Run, file: Path, tmp_path: Path) -> None:
    _, printed, _ = seglens("segment", file, "the horse", "--out", tmp_path / "out")
    assert printed.startswith("the horse: not found. The picture is not of the kind")
    assert "score" not in printed
    assert "presence" not in printed
    _, trusted, _ = seglens("segment", file, "the horse", "--trust", "--out", tmp_path / "trusted")
    assert "not of the kind" not in trusted
    _, answer, _ = seglens("ask", file, "what is the xyzzy?", "--json")
    assert "photographs" in json.loads(answer)["notice"]
    assert "'xyzzy'" in json.loads(answer)["notice"]


def test_python_warns_of_an_answer_in_words(segmenter: Segmenter, odd: np.ndarray, scene: Sample) -> None:
    with pytest.warns(UserWarning, match="photographs"):
        answer = segmenter.ask(odd, "what is in the picture?")
    assert answer == segmenter.backbone.generate(odd, "what is in the picture?")
    segmenter.ask(scene.image, "what is in the picture?")  # warnings are errors here


def test_a_chat_gives_the_notice_beside_the_answer(segmenter: Segmenter, odd: np.ndarray) -> None:
    talk = Agent(segmenter).start(odd)
    words = talk.say("what is the xyzzy?", route="dialogue")
    assert words.text == segmenter.backbone.generate(odd, "what is the xyzzy?")
    assert "photographs" in (words.notice or "")
    assert "'xyzzy'" in (words.answer().notice or "")
    refused = talk.say("segment the cup.", route="segmentation")
    assert refused.text == refused.predictions[0].reason
    reply = talk.say("segment the cup.", route="segmentation", trust=True)
    assert reply.predictions[0].familiar is False
    assert "photographs" not in reply.text


def test_other_people_s_agents_read_it(segmenter: Segmenter, odd: np.ndarray) -> None:
    service = ToolService(segmenter, ImageReader(Limits(), files=False))
    sight = service.segment(odd, ["the horse"])
    assert "not found. The picture is not of the kind" in sight.words()
    assert sight.answer.answers[0].familiar is False
    assert "photographs" in (service.ask(sight.answer.image, "what is it?").notice or "")
    assert "not of the kind" not in service.segment(sight.answer.image, ["the horse"], trust=True).words()


def test_a_scene_in_a_jpeg_is_familiar(segmenter: Segmenter, scene: Sample) -> None:
    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "JPEG", quality=75)
    query = next(target.query for target in scene.targets if target.present)
    assert segmenter.segment(buffer.getvalue(), query).familiar
