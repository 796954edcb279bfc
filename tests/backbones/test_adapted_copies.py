"""A copy of an MLLM with an adapter reads by the adapter through every path, and the MLLM that it shares weights with
stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bare import error
from torch import Tensor

from seglens.backbones import AttentionReader, Backbone, load_backbone
from seglens.backbones.lora import Adapter, attach
from seglens.core.tuning_types import Tuning
from tiny import KINDS

IMAGE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)
QUESTION = "the red cup"
TUNING = Tuning(("[SEG]",), targets=("q_proj", "k_proj", "v_proj"))
PATHS: dict[str, Callable[[Backbone], Tensor]] = {
    "open": lambda backbone: backbone.open(IMAGE).prefix,
    "keys below the read layer": lambda backbone: backbone.open(IMAGE).memory[-1][0],
    "read": lambda backbone: backbone.read(backbone.open(IMAGE), [QUESTION]).question,
    "attention of the layers that are read": lambda backbone: _maps(backbone, None),
    "attention of the first layer alone": lambda backbone: _maps(backbone, 1),
    "attention of all layers": lambda backbone: AttentionReader(backbone).maps(IMAGE, [QUESTION]),
    "likelihoods": lambda backbone: backbone.likelihoods(IMAGE, QUESTION, ["yes", "no"]),
    "forward": lambda backbone: backbone.module(**backbone.chat_inputs(IMAGE, QUESTION)).logits[..., :100],
}


def _maps(backbone: Backbone, layers: int | None) -> Tensor:
    reader = backbone.head_reader(layers)
    return reader.read(reader.open(IMAGE), [QUESTION]).maps


def strengthen(adapter: Adapter) -> None:
    """A new adapter adds nothing to any layer, because its B is zero."""
    torch.manual_seed(1)
    for name, parameter in adapter.named_parameters():
        if name.endswith(".B"):
            torch.nn.init.normal_(parameter, std=0.5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llava-1.5", "qwen3-vl"])
def test_every_path_reads_by_the_adapter(kind: str, tmp_path: Path) -> None:
    KINDS[kind].save(tmp_path)
    backbone = load_backbone(tmp_path, **KINDS[kind].options)
    before = {name: path(backbone) for name, path in PATHS.items()}
    mllm, adapter = attach(backbone.mllm, TUNING)
    copy = Backbone(mllm)
    strengthen(adapter)
    for name, path in PATHS.items():
        assert error(path(copy), before[name]) > 0.01, f"{name}: the adapter is not read"  # measured: from .02 on
        assert torch.equal(path(backbone), before[name]), f"{name}: the original changed"


@torch.no_grad()
def test_copied_layers_start_from_those_with_the_adapter(llava: Path) -> None:
    backbone = load_backbone(llava)
    mllm, adapter = attach(backbone.mllm, TUNING)
    strengthen(adapter)
    copy = Backbone(mllm)
    opened = copy.open(IMAGE)
    (clone,) = copy.clone_layers(1)
    (original,) = backbone.clone_layers(1)
    hidden, _ = clone.prefix(opened.prefix, opened.positions)
    expected, _ = copy.mllm.layers(copy.layer + 1).prefix(*_inputs(copy))
    assert torch.allclose(hidden, expected, atol=1e-4)
    assert not torch.allclose(original.prefix(opened.prefix, opened.positions)[0], expected, atol=1e-3)


def _inputs(backbone: Backbone) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    inputs = backbone.mllm.embed_image(IMAGE)
    return inputs.rows, inputs.positions, inputs.later
