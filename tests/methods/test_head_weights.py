"""Learned weights of attention heads in LENS: where they start, what they weigh, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seglens.backbones import Backbone
from seglens.backbones.head_choice import HeadChoice, HeadChoiceError, known_choice
from seglens.core.geometry import Frame
from seglens.core.types import Embedding, Readout
from seglens.decoders import MaskDecoder
from seglens.methods import method_settings
from seglens.methods.head_weights import SHARE, HeadWeights
from seglens.methods.lens import Lens, LensConfig, build_lens
from seglens.training.presets import KNOWN, adjusted, recipe, starting_from_heads

QUESTIONS = ("the red cup", "dog")
TINY = LensConfig(keypoints=5, encoder_width=64)
LEARNED = replace(TINY, head_weights="learned")
ROUNDING = 2e-6  # of the largest value; measured: 1e-7 of the map, 1e-6 of the mask


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def readout(backbone: Backbone, image: np.ndarray) -> Readout:
    return backbone.read(backbone.open(image), QUESTIONS)


@pytest.fixture(scope="module")
def embedding(decoder: MaskDecoder, image: np.ndarray) -> Embedding:
    return decoder.encode(image, Frame(*image.shape[:2]))


def make(backbone: Backbone, decoder: MaskDecoder, config: LensConfig) -> Lens:
    torch.manual_seed(0)
    return build_lens(config, backbone, decoder).eval()


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


# ------------------------------------------------------------------ what they weigh


@torch.no_grad()
def test_equal_weights_give_the_mean_and_all_that_follows_from_it(
    backbone: Backbone, decoder: MaskDecoder, readout: Readout, embedding: Embedding
) -> None:
    mean, weighted = (make(backbone, decoder, config)(readout, embedding) for config in (TINY, LEARNED))
    assert mean.heat_map is not None
    assert error(weighted.heat_map, mean.heat_map) < ROUNDING
    assert error(weighted.mask_logits, mean.mask_logits) < ROUNDING
    assert error(weighted.presence_logits, mean.presence_logits) < ROUNDING


@torch.no_grad()
@pytest.mark.parametrize("above", [(0, 0), (0, 1)])
def test_the_map_is_the_weighted_attention_of_the_mllm(
    backbone: Backbone, decoder: MaskDecoder, image: np.ndarray, embedding: Embedding, above: tuple[int, int]
) -> None:
    """Before training; as the reader of single heads gives it. The second layer counts where a head of it is given."""
    given = tuple((backbone.layer + n, head) for head, n in enumerate(above))
    lens = make(backbone, decoder, replace(LEARNED, heads=given))
    reader = backbone.head_reader()
    maps = reader.read(reader.open(image), QUESTIONS).maps[0, backbone.layer :].float()  # layers heads q h w
    layers = maps[: max(above) + 1]
    weights = torch.full(layers.shape[:2], (1 - SHARE) / (layers.shape[0] * layers.shape[1] - len(given)))
    for layer, head in given:
        weights[layer - backbone.layer, head] = SHARE / len(given)
    expected = (weights[..., None, None, None] * layers).sum((0, 1))
    heat = lens(backbone.read(backbone.open(image), QUESTIONS), embedding).heat_map
    assert heat is not None
    assert error(heat[0], expected) < 1e-4


def test_the_map_keeps_its_precision_in_autocast() -> None:
    attention = torch.rand(2, 4, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        weighted = HeadWeights(4)([attention])
    assert weighted.dtype == torch.float32
    assert torch.allclose(weighted, attention.mean(1), atol=1e-6)


def test_weights_stay_positive_and_of_sum_one() -> None:
    every = [(0, head) for head in range(3)]
    for given in ((), [(0, 1)], [(0, 2), (1, 0)], every):
        weights = HeadWeights(3, given).weights
        assert weights.shape == (max((layer for layer, _ in given), default=0) + 1, 3)
        assert (weights > 0).all()
        assert weights.sum().item() == pytest.approx(1)
    assert HeadWeights(3, every).weights.flatten().tolist() == pytest.approx([1 / 3] * 3)


def test_the_map_teaches_the_weights(
    backbone: Backbone, decoder: MaskDecoder, readout: Readout, embedding: Embedding
) -> None:
    lens = make(backbone, decoder, replace(LEARNED, heads=((backbone.layer + 1, 0),))).train()
    heat = lens(readout, embedding).heat_map
    assert heat is not None
    heat[..., 0, 0].sum().backward()
    assert lens.head_weights is not None
    gradient = lens.head_weights.logits.grad
    assert gradient is not None
    assert (gradient != 0).all()


# ------------------------------------------------------------------ saved heads


def test_a_saved_config_builds_the_same_head(
    backbone: Backbone, decoder: MaskDecoder, readout: Readout, embedding: Embedding
) -> None:
    config = replace(LEARNED, heads=((backbone.layer, 1), (backbone.layer + 1, 0)))
    lens = make(backbone, decoder, config)
    assert lens.head_weights is not None
    torch.nn.init.normal_(lens.head_weights.logits)  # as after a training
    again = method_settings("lens", json.loads(json.dumps(asdict(config))))
    assert again == config
    other = build_lens(again, backbone, decoder).eval()
    other.load_state_dict(lens.state_dict())
    with torch.no_grad():
        assert torch.equal(other(readout, embedding).mask_logits, lens(readout, embedding).mask_logits)


def test_heads_saved_before_there_were_weights_take_the_mean(backbone: Backbone, decoder: MaskDecoder) -> None:
    settings = {name: value for name, value in asdict(TINY).items() if name not in ("head_weights", "heads")}
    lens = make(backbone, decoder, method_settings("lens", settings))
    assert not any(name.startswith("head_weights") for name in lens.state_dict())


# ------------------------------------------------------------------ where they start


def test_the_heads_of_the_package_and_of_a_file_start_the_weights(tmp_path: Path) -> None:
    start = replace(recipe("default"), backbone="embedded/mllm")
    choice = known_choice("embedded/mllm")
    assert choice is not None
    assert starting_from_heads(start, KNOWN).method == replace(start.method, head_weights="learned", heads=choice.heads)
    file = tmp_path / "heads.json"
    replace(choice, heads=((2, 3),)).save(file)
    assert starting_from_heads(start, str(file)).method.heads == ((2, 3),)


def test_heads_that_cannot_start_the_weights_are_refused(tmp_path: Path) -> None:
    start = replace(recipe("default"), backbone="embedded/mllm")
    HeadChoice("another/mllm", None, ((2, 0),)).save(tmp_path / "heads.json")
    with pytest.raises(HeadChoiceError, match="those of another/mllm, and the MLLM is embedded/mllm"):
        starting_from_heads(start, str(tmp_path / "heads.json"))
    with pytest.raises(HeadChoiceError, match=r"absent\.json cannot be read"):
        starting_from_heads(start, str(tmp_path / "absent.json"))
    with pytest.raises(ValueError, match="brings no heads for org/unknown"):
        starting_from_heads(replace(start, backbone="org/unknown"), KNOWN)
    with pytest.raises(ValueError, match="give --backbone"):
        starting_from_heads(replace(start, backbone=None), KNOWN)
    with pytest.raises(ValueError, match="--heads for lisa"):
        starting_from_heads(replace(recipe("default", "lisa"), backbone="embedded/mllm"), KNOWN)


@pytest.mark.parametrize("pair", [(-1, 0), (2, 0), (0, 99)], ids=["below", "above", "beyond-its-heads"])
def test_heads_that_lens_does_not_compute_are_refused(
    backbone: Backbone, decoder: MaskDecoder, pair: tuple[int, int]
) -> None:
    layer = backbone.layer
    heads = ((layer, 0), (layer + pair[0], pair[1]))
    with pytest.raises(ValueError, match=rf"\[\({heads[1][0]}, {pair[1]}\)\].* reads layer {layer} .*{layer + 1}"):
        build_lens(replace(LEARNED, heads=heads), backbone, decoder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": ((1, 0),)}, "set head_weights=learned"),
        ({"heads": ((1, 0), (1, 0)), "head_weights": "learned"}, "each once"),
        ({"heads": ((1, -1),), "head_weights": "learned"}, "from 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LensConfig(**settings)


def test_equal_weights_are_a_setting_of_one_word() -> None:
    assert adjusted(recipe("default"), ["head_weights=learned"]).method.head_weights == "learned"
