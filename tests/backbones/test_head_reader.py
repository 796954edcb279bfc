"""The attention that a backbone pays to the image, beside what its makers' class shows with eager attention.

Errors are relative to the largest value compared, measured in float32 on one thread."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from bare import Bare, digest, error
from torch import Tensor

from seglens.backbones import AttentionReader, Backbone, load_backbone
from seglens.backbones.layers import attends
from seglens.core.types import HeadMaps
from tiny import KINDS

QUESTIONS = ("the red cup", "what keeps you dry when it rains ?", "dog")
IMAGE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)
TOLERANCE = 5e-6


def load(folder: Path, **how: object) -> Backbone:
    return load_backbone(folder, **{**KINDS[folder.name].options, "dtype": torch.float32, **how})


@pytest.fixture(scope="module")
def backbone(family: Path) -> Backbone:
    """As most people load it: with fused attention, which shows nothing."""
    return load(family, attn_implementation="sdpa")


@pytest.fixture(scope="module")
def maps(backbone: Backbone) -> Tensor:
    return AttentionReader(backbone).maps(IMAGE, QUESTIONS)


def test_maps_are_the_models_own_attention(family: Path, backbone: Backbone, maps: Tensor) -> None:
    """Of every layer, from the last token of the prompt, mean over heads."""
    bare = Bare.load(family, dtype=torch.float32, attn_implementation="eager")
    cells = backbone.grid[0] * backbone.grid[1]
    assert maps.shape == (len(bare.layers), len(QUESTIONS), *backbone.grid)
    for q, question in enumerate(QUESTIONS):
        ids = bare.ids(question, cells)
        image = ids[0] == bare.model.config.image_token_id
        attentions = bare.run(ids, bare.canvas(IMAGE, backbone.image_size)).attentions
        known = [k for k, a in enumerate(attentions) if a is not None]
        expected = torch.stack([attentions[k][0, :, -1, image].mean(0) for k in known])
        assert error(maps[known, q].flatten(1), expected) < TOLERANCE  # measured: 9.9e-7
        for n, k in enumerate(known[1:]):  # and no layer's map is another's
            assert error(maps[k, q].flatten(), expected[n]) > 0.05  # measured: at least .135
        assert not maps[[k for k in range(len(maps)) if k not in known], q].any()  # convolutions have none


@pytest.fixture(scope="module")
def heads(backbone: Backbone) -> HeadMaps:
    reader = backbone.head_reader(backbone.depth)
    return reader.read(reader.open(IMAGE), QUESTIONS)


def test_every_head_is_the_models_own(family: Path, backbone: Backbone, heads: HeadMaps) -> None:
    """The row of the last token, of all layers and heads, as the makers' class gives it."""
    bare = Bare.load(family, dtype=torch.float32, attn_implementation="eager")
    cells = backbone.grid[0] * backbone.grid[1]
    assert heads.maps.shape == (1, len(bare.layers), backbone.heads, len(QUESTIONS), *backbone.grid)
    for q, question in enumerate(QUESTIONS):
        ids = bare.ids(question, cells)
        image = ids[0] == bare.model.config.image_token_id
        attentions = bare.run(ids, bare.canvas(IMAGE, backbone.image_size)).attentions
        for k, attention in enumerate(attentions):
            expected = 0 if attention is None else attention[0, :, -1, image]
            assert (heads.maps[0, k, :, q].flatten(1) - expected).abs().max() < 1e-5


def test_nothing_but_the_rows_asked_for_is_kept(heads: HeadMaps) -> None:
    """The rows of all tokens of a layer, of which these are views otherwise, are let go of."""
    assert heads.maps.untyped_storage().nbytes() == heads.maps.numel() * 4


def test_no_layer_above_the_last_runs(backbone: Backbone, heads: HeadMaps) -> None:
    class RanError(Exception):
        pass

    def stop(*_: object) -> None:
        raise RanError

    reader = backbone.head_reader(3)
    hook = backbone.module.get_decoder().layers[3].register_forward_pre_hook(stop)
    try:
        maps_in_half = reader.read(reader.open(IMAGE), QUESTIONS)
    finally:
        hook.remove()
    assert (maps_in_half.maps - heads.maps[:, :3]).abs().max() < 1e-6
    assert backbone.head_reader().count == backbone.copied[-1] + 1


def test_padding_is_known(heads: HeadMaps, backbone: Backbone) -> None:
    """The image of 50 x 90 pixels leaves the lower part of the square empty."""
    rows = heads.inside[0].any(1)
    assert rows.sum() == math.ceil(50 / 90 * backbone.grid[0])
    assert rows[: int(rows.sum())].all()
    assert heads.inside[0, 0].all()


def test_layers_that_were_not_loaded_are_refused(family: Path) -> None:
    backbone = load(family, segmentation_only=True)
    assert backbone.head_reader().count == backbone.copied[-1] + 1
    with pytest.raises(ValueError, match=r"loaded with \d+; load it again"):
        backbone.head_reader(backbone.depth + 1)


def test_map_k_is_where_a_head_at_layer_k_begins(family: Path, maps: Tensor) -> None:
    """The first layer of such a head is a copy of layer k on hidden_states[k]."""
    readable = load(family).readable
    for k in (readable[0], readable[-1]):
        backbone = load(family, layer=k)
        readout = backbone.read(backbone.open(IMAGE), QUESTIONS)
        (first,) = backbone.clone_layers(1)
        rows = first.rows()
        with torch.no_grad():
            _, memory = first.prefix(readout.prefix, readout.prefix_positions)
            first.questions(readout.question, readout.question_positions, readout.question_mask, memory, rows)
        assert rows.probabilities is not None
        attentions = (
            rows.probabilities[0].unflatten(1, readout.question_mask.shape[1:]).mean(0)[..., readout.image_tokens]
        )
        for q, length in enumerate(readout.question_mask[0].sum(-1).tolist()):
            assert error(maps[k, q].flatten(), attentions[q, length - 1]) < TOLERANCE  # measured: 5.7e-7


def test_readable_layers_are_those_that_load(family: Path, backbone: Backbone) -> None:
    loads = []
    for k in range(backbone.depth):
        try:
            loads.append(load(family, layer=k).layer)
        except ValueError:
            continue
    assert list(backbone.readable) == loads
    assert loads[-1] == [n for n, layer in enumerate(backbone.mllm.language.layers) if attends(layer)][-2]


def test_watching_leaves_the_backbone_as_it_was(family: Path) -> None:
    backbone = load(family, attn_implementation="sdpa")
    inputs = backbone.chat_inputs(IMAGE, QUESTIONS[0])

    def state() -> tuple[str, str, list[str], str]:
        kinds = [m.config._attn_implementation for m in backbone.module.modules() if hasattr(m, "config")]
        return digest(backbone.module), json.dumps(backbone.module.config.to_dict(), default=str), kinds, answer()

    def answer() -> str:
        return backbone.generate(IMAGE, QUESTIONS[0], 8)

    with torch.no_grad():
        before, logits = state(), backbone.module(**inputs).logits
        reader = AttentionReader(backbone)
        first, again = reader.maps(IMAGE, QUESTIONS), reader.maps(IMAGE, QUESTIONS)
        assert state() == before
        assert torch.equal(backbone.module(**inputs).logits, logits)
    assert torch.equal(first, again)
    assert not any(m.training for m in backbone.module.modules())
    assert not any(p.requires_grad for p in backbone.module.parameters())
    ours = {p.data_ptr() for layer in reader.reader._readable for p in layer.layers.parameters()}
    assert ours <= {p.data_ptr() for p in backbone.module.parameters()}  # no weight is held twice


def test_questions_do_not_disturb_each_other(backbone: Backbone, maps: Tensor) -> None:
    for q, question in enumerate(QUESTIONS):
        assert (
            error(AttentionReader(backbone).maps(IMAGE, [question])[:, 0], maps[:, q]) < TOLERANCE
        )  # measured: 4.2e-7


def test_half_precision(family: Path, maps: Tensor) -> None:
    maps_in_half = AttentionReader(load(family, dtype=torch.bfloat16)).maps(IMAGE, QUESTIONS)
    assert maps_in_half.dtype == torch.float32
    assert error(maps_in_half, maps) < 0.1  # measured: .030


def test_a_model_without_its_upper_layers_is_refused(family: Path) -> None:
    with pytest.raises(ValueError, match=r"segmentation_only=True.*load it again") as caught:
        AttentionReader(load(family, segmentation_only=True))
    assert "\n" not in str(caught.value)


def test_layers_with_a_window_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "internvl"
    KINDS["internvl"].save(folder)
    config = json.loads((folder / "config.json").read_text())
    kinds = ["full_attention"] * 4 + ["sliding_attention"] * 2
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 16, "layer_types": kinds}
    whole = AttentionReader(load(folder)).maps(IMAGE, QUESTIONS)
    (folder / "config.json").write_text(json.dumps(config))
    backbone = load(folder, layer=2)
    assert list(backbone.readable) == [1, 2]
    assert torch.equal(AttentionReader(backbone).maps(IMAGE, QUESTIONS), whole[:4])


def test_too_few_layers(tmp_path: Path) -> None:
    KINDS["internvl"].save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"has 2 layers.*choose a model of at least 3") as caught:
        load_backbone(tmp_path)
    assert "\n" not in str(caught.value)
