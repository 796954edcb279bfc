"""The essential of the contract for the kinds whose other tests run among the slow ones: read, attention, chat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bare import Bare, error

from seglens.backbones import load_backbone
from tiny import EVERY, SLOW

QUESTION = "the red cup"
IMAGE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)
EXACT = {"dtype": torch.float32, "attn_implementation": "eager"}
TOLERANCE = 5e-6


@pytest.mark.parametrize("kind", SLOW)
def test_reads_attends_and_chats_as_the_models_own_class(kind: str, tmp_path: Path) -> None:
    """States below the layer that is read, keys and values there, attention of every head, and the answer."""
    folder = tmp_path / kind
    EVERY[kind].save(folder)
    backbone = load_backbone(folder, **{**EVERY[kind].options, **EXACT}, as_is=True)
    bare = Bare.load(folder, **EXACT)
    opened = backbone.open(IMAGE)
    readout, start = backbone.read(opened, [QUESTION]), opened.prefix.shape[1]
    ids = bare.ids(QUESTION, len(readout.image_tokens))
    whole = bare.run(ids, bare.canvas(IMAGE, backbone.image_size))
    there = whole.inputs[backbone.layer][0]
    assert error(readout.prefix[0], there[:start]) < TOLERANCE
    assert error(readout.question[0, 0], there[start:]) < TOLERANCE
    with torch.no_grad():
        given = EVERY[kind].canvas(bare.model, bare.processor, bare.canvas(IMAGE, backbone.image_size), ids)
        cache = bare.model(**given, use_cache=True).past_key_values
    for memory, layer in zip(opened.memory, cache.layers, strict=False):
        if isinstance(memory, tuple):  # of a convolution the cache keeps the last inputs, those of the question
            assert error(memory[0], layer.keys[:, :, :start]) < TOLERANCE
            assert error(memory[1], layer.values[:, :, :start]) < TOLERANCE
    reader = backbone.head_reader(backbone.depth)
    maps = reader.read(reader.open(IMAGE), [QUESTION]).maps[0, :, :, 0].flatten(2)
    expected = [torch.zeros_like(maps[0]) if a is None else a[0, :, -1, readout.image_tokens] for a in whole.attentions]
    assert error(maps, torch.stack(expected)) < TOLERANCE
    assert backbone.generate(IMAGE, QUESTION, 4) == bare.talk(IMAGE, QUESTION, 4)[0]


def test_a_system_text_is_given_as_the_template_takes_it(tmp_path: Path) -> None:
    """GLM-4.1V's own template prints the content of a system turn as it stands: a list of parts is no text."""
    EVERY["glm4v"].save(tmp_path)
    backbone = load_backbone(tmp_path, **EVERY["glm4v"].options)
    reading = backbone.with_system_text("It's\na test.").reading
    assert reading.text("cup").startswith("[gMASK]<sop><|system|>\nIt's\na test.<|user|>\n<|begin_of_image|>")
    assert reading.before()[-1] == backbone.prompts.before()[-1]


@pytest.mark.parametrize("kind", ["idefics3", "smolvlm"])
def test_a_chat_about_a_large_picture_shows_its_parts_too(kind: str, tmp_path: Path) -> None:
    """As the model's own processor splits it, while it is read on one square."""
    folder = tmp_path / kind
    EVERY[kind].save(folder)
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    side = settings["max_image_size"]["longest_edge"]
    file.write_text(json.dumps({**settings, "size": {"longest_edge": 2 * side}}))
    backbone, bare = load_backbone(folder, **EXACT, as_is=True), Bare.load(folder, **EXACT)
    bare.processor.image_processor.size = backbone.processor.image_processor.size
    image = np.random.default_rng(2).integers(0, 256, (2 * side, 2 * side, 3), dtype=np.uint8)
    inputs, expected = backbone.chat_inputs(image, QUESTION), bare.inputs(image, QUESTION)
    cells = backbone.grid[0] * backbone.grid[1]
    assert inputs["pixel_values"].shape[1] == 5
    assert (inputs["input_ids"] == bare.model.config.image_token_id).sum() == 5 * cells
    assert all(torch.equal(inputs[key], expected[key]) for key in expected)
    answers = ["a cat", "two dogs"]
    with torch.no_grad():
        logits = [_likelihood(bare, image, answer) for answer in answers]
    ours = backbone.likelihoods(image, QUESTION, answers)
    assert error(ours, torch.stack(logits)) < TOLERANCE
    assert len(backbone.read(backbone.open(image), [QUESTION]).image_tokens) == cells


def _likelihood(bare: Bare, image: np.ndarray, answer: str) -> torch.Tensor:
    """Log-likelihood of an answer by one whole pass of the bare model."""
    inputs = bare.inputs(image, QUESTION)
    tokens = torch.tensor([bare.processor.tokenizer(answer, add_special_tokens=False).input_ids])
    start = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], tokens], 1)
    logits = bare.model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
    chances = logits[0, start - 1 : -1].log_softmax(-1)
    return chances.gather(1, tokens[0][:, None]).sum()
