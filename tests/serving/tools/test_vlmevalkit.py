"""The model class does all that VLMEvalKit's harness needs of one: a restatement of its loop, and the package itself
where it is installed."""

from __future__ import annotations

import base64
import csv
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from seglens.evaluation.vqa import BENCHMARKS
from seglens.evaluation.vqa.vlmevalkit import SegLensVLM
from seglens.inference.segmenter import Segmenter
from shared import shared


class Rows:
    """A dataset as the harness holds one: rows, a function that writes a row's images, and its own wording."""

    def __init__(self, name: str, folder: Path):
        self.dataset_name, self.folder = name, folder
        csv.field_size_limit(sys.maxsize)
        with (shared("general/mmbench") / "MMBench_EN_sample.tsv").open(newline="", encoding="utf-8") as file:
            self.data = [{k: v or float("nan") for k, v in row.items()} for row in csv.DictReader(file, delimiter="\t")]

    def dump_image(self, line: Mapping[str, Any]) -> list[str]:
        path = self.folder / f"{line['index']}.jpg"
        path.write_bytes(base64.b64decode(line["image"]))
        return [str(path)]

    def build_prompt(self, line: Mapping[str, Any]) -> list[dict[str, str]]:
        images = [{"type": "image", "value": path} for path in self.dump_image(line)]
        return [*images, {"type": "text", "value": f"Question: {line['question']}\n"}]


def infer_data(model: Any, dataset: Rows, limit: int) -> dict[str, str]:
    """What vlmeval/inference.py does with a model that is no API."""
    assert not getattr(model, "is_api", False)
    model.set_dump_image(dataset.dump_image)
    results = {}
    for line in dataset.data[:limit]:
        if hasattr(model, "use_custom_prompt") and model.use_custom_prompt(dataset.dataset_name):
            struct = model.build_prompt(line, dataset=dataset.dataset_name)
        else:
            struct = dataset.build_prompt(line)
        results[line["index"]] = model.generate(message=struct, dataset=dataset.dataset_name)
    return results


@pytest.fixture(scope="module")
def model() -> SegLensVLM:
    supported_vlm = {"seglens": partial(SegLensVLM, model_path="embedded", device="cpu", max_new_tokens=8)}
    return supported_vlm["seglens"]()


# what `ask` warns of beside the answer: the pictures and words are of benchmarks, not of the drawn world
@pytest.mark.filterwarnings("ignore:The (picture|words?) :UserWarning")
def test_the_harness_gets_the_answers_of_the_bare_model(
    model: SegLensVLM, segmenter: Segmenter, tmp_path: Path
) -> None:
    """Worded and answered as `seglens bench` does; the head, the bare backbone and `ask` agree."""
    dataset = Rows("MMBench_DEV_EN", tmp_path)
    answers = infer_data(model, dataset, 6)
    bare = SegLensVLM(backbone=segmenter.backbone.name, device="cpu", max_new_tokens=8)
    assert infer_data(bare, dataset, 6) == answers
    questions = {question.id: question for question in BENCHMARKS["mmbench"].read(str(shared("general/mmbench")))}
    for index, answer in answers.items():
        assert model.build_prompt(next(r for r in dataset.data if r["index"] == index))[-1]["value"] == (
            questions[index].prompt
        )
        assert answer == segmenter.ask(questions[index].picture(), questions[index].prompt, 8)


def test_a_dataset_that_words_its_own_questions(model: SegLensVLM, tmp_path: Path) -> None:
    dataset = Rows("MME", tmp_path)
    assert not model.use_custom_prompt("MME")
    assert not model.use_custom_prompt(None)
    assert len(infer_data(model, dataset, 2)) == 2


def test_every_form_of_a_message(model: SegLensVLM) -> None:
    path = str(next(shared("general/pope/mini/val2014").glob("*.jpg")))
    text = "is there a dog?"
    parts = [{"type": "image", "value": path}, {"type": "text", "value": text}]
    answer = model.generate(parts)
    assert answer == model.generate([path, text]) == model.generate([text, path], "POPE")
    other = str(shared("general/mme/mini/count/000000261712.jpg"))
    with pytest.warns(UserWarning, match="got 2 images; the model takes one and is shown the first"):
        assert model.generate([path, other, text]) == answer


def test_what_the_model_cannot_take(model: SegLensVLM) -> None:
    with pytest.raises(ValueError, match="a message without an image"):
        model.generate("what is it?")
    with pytest.raises(ValueError, match="a message without an image"):
        model.generate({"type": "text", "value": "what is it?"})
    with pytest.raises(ValueError, match="type 'video'; the model takes text and image"):
        model.generate([{"type": "video", "value": "a.mp4"}])
    with pytest.raises(ValueError, match="need texts, or parts with type and value"):
        model.generate([{"kind": "text"}])
    with pytest.raises(ValueError, match="does not exist"):
        model.generate([{"type": "image", "value": "no.jpg"}, {"type": "text", "value": "?"}])
    fresh = SegLensVLM.__new__(SegLensVLM)
    fresh.dump_image_func = None
    with pytest.raises(ValueError, match="no dataset is set; call set_dump_image"):
        fresh.dump_image({})


def test_the_package_itself_takes_it(model: SegLensVLM) -> None:
    config = pytest.importorskip("vlmeval.config", reason="VLMEvalKit is installed from its repository only")
    base = pytest.importorskip("vlmeval.vlm.base")
    for name in ("set_dump_image", "dump_image", "use_custom_prompt", "build_prompt", "generate", "generate_inner"):
        assert hasattr(base.BaseModel, name)
        assert callable(getattr(model, name))
    assert isinstance(config.supported_VLM, dict)
