"""Molmo 2: overlapping crops with their overview, whose tokens all see each other, and what of its files is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bare import Bare, error
from PIL import Image
from transformers.models.molmo2.image_processing_molmo2 import Molmo2ImageProcessor

from seglens.backbones import Backbone, QuestionError, draw_blueprint, load_backbone
from seglens.backbones.processors import without_torchvision
from seglens.core.tuning_types import AnswerTemplates, Tuning
from tiny import CROPPED, MOLMO_MARKS

CONFIGS = Path(__file__).parent / "configs"
EXACT = {"dtype": torch.float32, "attn_implementation": "eager"}
QUESTION = "the red cup"
PICTURE = np.random.default_rng(3).integers(0, 256, (42, 42, 3), dtype=np.uint8)  # of the canvas's size: not scaled
TOLERANCE = 5e-6
ROUNDED = 1e-3  # its processor rounds the overview to whole numbers from 0 to 255; ours is not rounded


@pytest.fixture(scope="module")
def molmo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "molmo2"
    CROPPED["molmo2"].save(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(molmo: Path) -> Backbone:
    return load_backbone(molmo, **EXACT)


def edited(molmo: Path, folder: Path, file: str, part: str | None = None, **values: Any) -> Path:
    shutil.copytree(molmo, folder, dirs_exist_ok=True)
    config = json.loads((folder / file).read_text())
    (config if part is None else config[part]).update(values)
    (folder / file).write_text(json.dumps(config))
    return folder


@torch.no_grad()
def test_a_picture_is_shown_as_its_processor_shows_a_square_one(molmo: Path, backbone: Backbone) -> None:
    """Its tokens one by one, their types, its overview and its crops; and with its inputs, states and attention."""
    bare = Bare.load(molmo, **EXACT)
    opened = backbone.open(PICTURE)
    readout, start = backbone.read(opened, [QUESTION]), opened.prefix.shape[1]
    inputs = bare.inputs(PICTURE, QUESTION)
    assert inputs["pixel_values"].shape == (5, 121, 27)
    ids, types = (inputs[key][0].tolist() for key in ("input_ids", "mm_token_type_ids"))
    begin = backbone.prompts.before()
    assert ids == [*begin, *backbone.mllm.family._ids(backbone.tiling).tolist(), *backbone.prompts.after(QUESTION)]
    assert begin == [backbone.processor.tokenizer.eos_token_id]
    assert types == [int(len(begin) <= n < start) for n in range(len(ids))]
    output = bare.model(**inputs, output_hidden_states=True, output_attentions=True)
    there = output.hidden_states[backbone.layer][0]
    assert error(readout.prefix[0], there[:start]) < ROUNDED  # measured: 9e-5
    assert error(readout.question[0, 0], there[start:]) < ROUNDED
    reader = backbone.head_reader(backbone.depth)
    maps = reader.read(reader.open(PICTURE), [QUESTION]).maps[0, :, :, 0].flatten(2)
    expected = torch.stack([attention[0, :, -1, readout.image_tokens] for attention in output.attentions])
    assert error(maps, expected) < ROUNDED  # measured: 4e-5


@torch.no_grad()
def test_the_rows_of_the_crops_are_those_of_the_model(backbone: Backbone) -> None:
    """By its own forward pass over the crops of a canvas, with its own places of patches."""
    canvas = backbone.mllm.pixels(PICTURE)[None]
    given = backbone.processor.image_processor(canvas[0], do_rescale=False, do_normalize=False, return_tensors="pt")
    grids = given["image_grids"]
    assert grids.tolist() == [[6, 6, 7, 7]]
    pixels, pooling = given["pixel_values"], given["image_token_pooling"]
    theirs = backbone.module.get_image_features(pixels, pooling, grids).pooler_output[0]
    family, layout = backbone.mllm.family, backbone.mllm.family.layout
    ours = family.project(family.patches(canvas).merged(layout.grid, layout.shuffle))[0]
    assert error(ours, theirs[36:]) < TOLERANCE  # measured: 0


def test_what_stands_around_the_grid_sees_it(backbone: Backbone) -> None:
    """In what is read and in what a head copies: the token that begins the overview and the one that ends the image."""
    readout = backbone.read(backbone.open(PICTURE), ["cup"])
    changed = readout.prefix.clone()
    changed[:, -1] += 1  # the last <im_end>
    for layers in (backbone.clone_layers(1)[0], backbone.layers_below()):
        with torch.no_grad():
            one, other = (layers.prefix(rows, readout.prefix_positions)[0] for rows in (readout.prefix, changed))
        assert torch.equal(one[:, 0], other[:, 0])  # the token before the image
        assert all(not torch.equal(one[:, n], other[:, n]) for n in range(1, one.shape[1]))


@pytest.mark.parametrize("token", ["<|image|>", *MOLMO_MARKS.values()])
def test_no_token_of_an_image_can_be_typed(backbone: Backbone, token: str) -> None:
    with pytest.raises(
        QuestionError, match=f"contains {token!r}, which stands for the image itself".replace("|", r"\|")
    ):
        backbone.prompts.after(f"a {token}")


def test_it_is_read_frozen(backbone: Backbone) -> None:
    tuning, words = Tuning(("[SEG]",), 4, 8.0, 0.0, ("q_proj",)), AnswerTemplates(("[SEG]",), "{}", ("[SEG].",))
    with pytest.raises(ValueError, match=r"'molmo2' model is read by LENS only.*no overview beside overlapping crops"):
        backbone.adapt(tuning, words)


def test_its_template_takes_no_system_text(backbone: Backbone) -> None:
    with pytest.raises(
        ValueError, match=r"takes no system text \(Conversation roles must alternate.*train without one"
    ):
        backbone.with_system_text("Be brief.")


def test_a_template_that_begins_the_conversation_is_not_begun_again(
    molmo: Path, backbone: Backbone, tmp_path: Path
) -> None:
    shutil.copytree(molmo, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "chat_template.jinja"
    file.write_text("<|im_end|>" + file.read_text())
    begun = load_backbone(tmp_path, **EXACT)
    assert begun.prompts.before() == backbone.prompts.before()
    assert begun.prompts.after(QUESTION) == backbone.prompts.after(QUESTION)
    inputs, expected = (one.chat_inputs(PICTURE, QUESTION)["input_ids"] for one in (begun, backbone))
    assert torch.equal(inputs, expected)


def test_other_settings_are_refused(molmo: Path, tmp_path: Path) -> None:
    other = edited(molmo, tmp_path / "a", "processor_config.json", use_single_crop_col_tokens=True)
    with pytest.raises(ValueError, match=r"'use_single_crop_col_tokens': True.*only the published are read"):
        load_backbone(other)
    other = edited(molmo, tmp_path / "b", "preprocessor_config.json", overlap_margins=[2, 2])
    with pytest.raises(ValueError, match=r"'overlap_margins': \[2, 2\].*only the published are read"):
        load_backbone(other)
    with pytest.raises(ValueError, match="sees its images at 42 pixels"):
        load_backbone(molmo, image_size=33)


def test_layers_with_rotary_positions_of_two_kinds_are_refused_by_the_config_alone(molmo: Path, tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e6}
    alike = edited(molmo, tmp_path / "a", "config.json", "text_config", rope_parameters=rope)
    assert draw_blueprint(alike).layout.grid == (7, 7)
    unlike = edited(alike, tmp_path / "b", "config.json", "text_config", rope_scaling_layers=[1, 3])
    with pytest.raises(ValueError, match="rope_scaling_layers"):
        draw_blueprint(unlike)


def test_a_published_config_shows_a_square_as_its_processor_does() -> None:
    """A picture of the canvas's size keeps it: 2 x 2 crops of 378 pixels, 23 x 23 cells and an overview of 14 x 14."""
    layout = draw_blueprint(CONFIGS / "Molmo2-4B.json").layout
    assert (layout.image_size, layout.grid, layout.tiling.tokens) == (644, (23, 23), 14 * 14 + 2 + 23 * 24 + 2)
    shown = without_torchvision(Molmo2ImageProcessor)()(Image.new("RGB", (644, 644)), return_tensors="pt")
    assert shown["image_grids"].tolist() == [[14, 14, 23, 23]]
    assert shown["pixel_values"].shape == (5, 27 * 27, 14 * 14 * 3)
