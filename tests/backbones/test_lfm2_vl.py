"""LFM2-VL: convolutions that continue the prefix for each question alone, and pictures without torchvision.

Looked up: config, processor, chat template and special tokens of LiquidAI/LFM2-VL-450M in a repository that copies
its files (varun00391/local-finetuned-model), the names that transformers reads today in a fine-tuned LFM2-VL-1.6B
(Ba2han/tr_ocr6)."""

from __future__ import annotations

import importlib
import json
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bare import Bare, error
from PIL import Image
from torch import Tensor
from transformers.models.lfm2.modeling_lfm2 import Lfm2DecoderLayer, Lfm2RotaryEmbedding

from seglens.backbones import Backbone, draw_blueprint, load_backbone
from seglens.backbones.layers import SHARING, DecoderLayers
from seglens.backbones.lfm2_images import Lfm2Images
from seglens.data import load_data
from seglens.evaluation.head_probe import find_heads
from tiny import KINDS

KIND = "lfm2-vl"
IMAGE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)
EXACT = {"dtype": torch.float32, "attn_implementation": "eager"}
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def lfm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / KIND
    KINDS[KIND].save(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(lfm2: Path) -> Backbone:
    return load_backbone(lfm2, **KINDS[KIND].options, **EXACT, as_is=True)


# ------------------------------------------------------------------ convolutions


def convolution(backbone: Backbone) -> tuple[Lfm2DecoderLayer, DecoderLayers]:
    layer = backbone.mllm.language.layers[0]
    rotary = backbone.mllm.language.rotary_emb
    assert isinstance(layer, Lfm2DecoderLayer)
    assert isinstance(rotary, Lfm2RotaryEmbedding)
    assert not layer.is_attention_layer
    return layer, DecoderLayers([layer], rotary)


@torch.no_grad()
@pytest.mark.parametrize("prefix", [1, 2, 7])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("questions", [1, 3, SHARING + 2])
def test_a_convolution_runs_each_question_after_the_prefix(
    backbone: Backbone, prefix: int, tokens: int, questions: int
) -> None:
    """Of two images, as its own layer runs the prefix and one question in one go; shorter than the kernel, too."""
    layer, run = convolution(backbone)
    random = torch.Generator().manual_seed(0)
    before = torch.randn(2, prefix, 64, generator=random)
    words = torch.randn(2, questions, tokens, 64, generator=random)
    places = torch.arange(prefix + tokens)
    out, memory = run.prefix(before, places[:prefix].expand(2, -1))
    mask = torch.ones(2, questions, tokens, dtype=torch.bool)
    continued = run.questions(words, places[prefix:].expand(2, questions, -1), mask, memory)
    for q in range(questions):
        whole = layer(torch.cat([before, words[:, q]], 1))
        assert error(out, whole[:, :prefix]) < TOLERANCE  # measured: 0
        assert error(continued[:, q], whole[:, prefix:]) < TOLERANCE  # measured: 1.9e-7


@torch.no_grad()
def test_no_question_reaches_the_next(backbone: Backbone) -> None:
    """Through all layers: the state of a question, whatever stands before it in its row."""
    opened = backbone.open(IMAGE)
    first, other = (backbone.read(opened, [text, "the red cup"]).question[0, 1] for text in ("dog", "cat"))
    assert torch.equal(first, other)
    alone = backbone.read(opened, ["the red cup"]).question[0, 0]
    assert error(first, alone) < TOLERANCE  # measured: 2.6e-7


@torch.no_grad()
def test_without_the_prefix_a_convolution_gives_other_states(backbone: Backbone) -> None:
    """What the memory is for: the first two tokens of a question depend on the end of the prefix."""
    _, run = convolution(backbone)
    before, words = torch.ones(1, 4, 64), torch.ones(1, 1, 3, 64)
    _, memory = run.prefix(before, torch.arange(4)[None])
    mask, places = torch.ones(1, 1, 3, dtype=torch.bool), torch.arange(4, 7)[None, None]
    assert isinstance(memory[0], Tensor)
    assert memory[0].shape == (1, 64, 2)
    after, alone = (run.questions(words, places, mask, [m])[0, 0] for m in (memory[0], torch.zeros_like(memory[0])))
    assert ((after - alone).abs().amax(-1) > 1e-3).tolist() == [True, True, False]


@torch.no_grad()
def test_answers_are_as_likely_as_in_whole_passes(backbone: Backbone, lfm2: Path) -> None:
    """Also after a question that was run before: what it keeps is cut where the two begin to differ."""
    bare, answers = Bare.load(lfm2, **EXACT), ["a cat", "two dogs"]
    prefix = backbone.chat_prefix(IMAGE, "is it red ?")
    for question in ("is it red ?", "is it blue ?", "what"):
        expected = torch.stack([likelihood(bare, question, answer) for answer in answers])
        assert error(backbone.likelihoods(prefix, question, answers), expected) < TOLERANCE  # measured: 7.7e-8


def likelihood(bare: Bare, question: str, answer: str) -> Tensor:
    """By one whole pass of the bare model."""
    inputs = bare.inputs(IMAGE, question)
    tokens = torch.tensor([bare.processor.tokenizer(answer, add_special_tokens=False).input_ids])
    ids = torch.cat([inputs["input_ids"], tokens], 1)
    logits = bare.model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
    chances = logits[0, inputs["input_ids"].shape[1] - 1 : -1].log_softmax(-1)
    return chances.gather(1, tokens[0][:, None]).sum()


# ------------------------------------------------------------------ which layers are read


def test_only_layers_with_attention_are_read(lfm2: Path) -> None:
    with pytest.raises(ValueError, match=r"layer 3 cannot be read: .*choose 2, 4 or 6$"):
        load_backbone(lfm2, layer=3)
    read = load_backbone(lfm2, layer=2)
    assert (read.layer, read.copied, read.readable) == (2, (2, 4), (2, 4, 6))
    assert [len(clone.layers) for clone in read.clone_layers(2)] == [1, 2]  # the second begins with a convolution


def test_localization_heads_choose_the_layer_to_read(lfm2: Path) -> None:
    """So that the layer of the deepest is loaded, and no layer without need."""
    blueprint = draw_blueprint(lfm2)
    assert blueprint.depth.layer == 4
    assert [blueprint.layer_for(deepest) for deepest in (2, 4, 6, 8)] == [4, 4, 4, 6]


@pytest.mark.slow
def test_localization_heads_are_found_in_layers_with_attention(backbone: Backbone) -> None:
    """The maps of the others are empty: no query chooses them, and none of them judges presence."""
    choice = find_heads(backbone, load_data("world:n=3,seed=1"))
    assert {layer for layer, _ in choice.all_heads} <= {2, 4, 6, 8}


# ------------------------------------------------------------------ pictures


SETTINGS = {"min_image_tokens": 4, "max_image_tokens": 16, "encoder_patch_size": 4, "tile_size": 32}


class Mode(Enum):
    BILINEAR, BICUBIC, LANCZOS = "bilinear", "bicubic", "lanczos"


def resize(image: Tensor, size: tuple[int, int], interpolation: Mode, antialias: bool) -> Tensor:
    """As torchvision resizes bytes on the CPU (its `resize_image`)."""
    if image.shape[-2:] == torch.Size(size):
        return image
    return F.interpolate(image, size, mode=interpolation.value, align_corners=False, antialias=antialias)


def normalize(image: Tensor, mean: Tensor, std: Tensor, inplace: bool) -> Tensor:
    return image.sub(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """transformers' own class. It needs torchvision, whose two functions that it calls stand here."""
    functional = SimpleNamespace(InterpolationMode=Mode, resize=resize, normalize=normalize)
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["torchvision.transforms.v2"], "functional", functional, raising=False)
    backends = importlib.import_module("transformers.image_processing_backends")
    monkeypatch.setattr(backends, "tvF", functional, raising=False)
    monkeypatch.setattr(backends, "pil_torch_interpolation_mapping", {2: Mode.BILINEAR, 3: Mode.BICUBIC})
    name = "transformers.models.lfm2_vl.image_processing_lfm2_vl"
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module.Lfm2VlImageProcessor


@pytest.mark.parametrize("size", [(16, 16), (50, 90), (90, 50), (12, 90), (31, 33), (100, 100), (64, 320), (3, 3)])
@pytest.mark.parametrize(
    "how", [{}, {"use_thumbnail": False}, {"do_image_splitting": False}, {"resample": 3, "max_tiles": 4}], ids=str
)
def test_pictures_are_those_of_transformers_own_class(theirs: Any, size: tuple[int, int], how: dict[str, Any]) -> None:
    """Whole ones, and in tiles with and without a thumbnail: the same numbers."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    ours = Lfm2Images(**SETTINGS, **how)(Image.fromarray(image), return_tensors="pt", return_row_col_info=True)
    defaults = {name: getattr(theirs, name) for name in theirs.valid_kwargs.__annotations__ if hasattr(theirs, name)}
    made = object.__new__(theirs)  # its constructor asks for torchvision itself
    expected = made._preprocess(
        [torch.from_numpy(image).permute(2, 0, 1).contiguous()],
        **{
            **defaults,
            **{name: getattr(theirs, name) for name in ("do_resize", "resample", "do_rescale", "rescale_factor")},
            **{"do_normalize": True, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3},
            **SETTINGS,
            **how,
            "return_row_col_info": True,
        },
        return_tensors="pt",
        disable_grouping=None,
    )
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(value)), name


def test_a_strip_with_more_cells_than_are_allowed_is_shown_whole(backbone: Backbone) -> None:
    """One cell high and 18 wide, where 16 are allowed: its mask has all of them, and the model answers."""
    inputs = backbone.chat_inputs(np.zeros((9, 200, 3), np.uint8), "dog")
    assert inputs["spatial_shapes"].tolist() == [[2, 36]]
    assert inputs["pixel_attention_mask"].sum() == 72
    assert (inputs["input_ids"] == backbone.module.config.image_token_id).sum() == 18
    assert backbone.module(**inputs).logits.isfinite().all()


def test_a_large_picture_is_shown_in_tiles_and_read_whole(backbone: Backbone, lfm2: Path) -> None:
    """The chat has the tiles of its processor, with a thumbnail; masks are read on one square."""
    image = np.random.default_rng(2).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    bare = Bare.load(lfm2, **EXACT)
    inputs, expected = backbone.chat_inputs(image, "dog"), bare.inputs(image, "dog")
    assert len(inputs["pixel_values"]) == 9  # four tiles by two, and the thumbnail
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    cells = backbone.grid[0] * backbone.grid[1]
    assert len(backbone.read(backbone.open(image), ["dog"]).image_tokens) == cells


def test_the_files_of_published_models_are_read(lfm2: Path, tmp_path: Path) -> None:
    """Those of transformers' own class; newer ones have the settings inside those of the processor."""
    settings = json.loads((lfm2 / "preprocessor_config.json").read_text())
    nested = {"processor_class": "Lfm2VlProcessor", "image_processor": {**settings, "use_thumbnail": False}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert Lfm2Images.from_pretrained(lfm2).use_thumbnail
    assert not Lfm2Images.from_pretrained(tmp_path).use_thumbnail
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {**settings, "resample": 1}}))
    with pytest.raises(ValueError, match=r"got resample=1 for images of LFM2-VL; it must be 2 or 3"):
        Lfm2Images.from_pretrained(tmp_path)
