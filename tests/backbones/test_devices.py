"""Models placed by accelerate: read, chat and copied wherever their parts are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seglens.backbones import Backbone, load_backbone
from seglens.backbones.layer_copies import plain_copy

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'seglens[train]'")
IMAGE = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)
PARTS = (
    "model.vision_tower",
    "model.multi_modal_projector",
    "model.language_model.embed_tokens",
    "model.language_model.norm",
    "model.language_model.rotary_emb",
    "lm_head",
)


def spread(folder: Path, disk: tuple[int, ...], offload: Path) -> Backbone:
    """With some decoder layers left on disk, brought in when they run: the one way to have two places on a CPU."""
    layers = {f"model.language_model.layers.{n}": "disk" if n in disk else "cpu" for n in range(8)}
    device_map: dict[str, Any] = {**dict.fromkeys(PARTS, "cpu"), **layers}
    return load_backbone(folder, attn_implementation="eager", device_map=device_map, offload_folder=offload)


def same(one: Backbone, other: Backbone) -> None:
    for questions in (["the red cup"], ["a dog", "the left one of them"]):
        ours, theirs = (b.read(b.open(IMAGE), questions) for b in (one, other))
        assert torch.equal(ours.prefix, theirs.prefix)
        assert torch.equal(ours.question, theirs.question)
        assert ours.question.device == one.device
    assert one.generate(IMAGE, "what is it ?", 6) == other.generate(IMAGE, "what is it ?", 6)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_one_device(llava: Path, backbone: Backbone, device_map: Any) -> None:
    placed = load_backbone(llava, attn_implementation="eager", device_map=device_map)
    assert placed.device == torch.device("cpu")
    same(placed, backbone)
    same_copies(placed, backbone)


def same_copies(one: Backbone, other: Backbone) -> None:
    readout = other.read(other.open(IMAGE), ["the red cup"])
    for ours, theirs in zip(one.clone_layers(2), other.clone_layers(2), strict=True):
        output, expected = (c.prefix(readout.prefix, readout.prefix_positions)[0] for c in (ours, theirs))
        assert torch.equal(output, expected)
        assert not any("_hf_hook" in vars(m) for m in ours.modules())
        output.sum().backward()
        assert all(p.grad is not None for p in ours.layers[0].mlp.parameters())


def test_two_places(llava: Path, backbone: Backbone, tmp_path: Path) -> None:
    placed = spread(llava, (1, 7), tmp_path)
    parameters = placed.module.get_decoder().layers[1].parameters()
    assert all(p.is_meta for p in parameters)
    same(placed, backbone)
    same_copies(placed, backbone)


def test_a_layer_left_on_disk_cannot_be_copied(llava: Path, backbone: Backbone, tmp_path: Path) -> None:
    placed = spread(llava, (backbone.layer,), tmp_path)
    same(placed, backbone)
    with pytest.raises(ValueError, match="left on disk; give layers of the language model a device"):
        placed.clone_layers(2)


def test_weights_of_an_unknown_kind_cannot_be_copied() -> None:
    layer = nn.Module()
    layer.register_parameter("packed", nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False))
    with pytest.raises(ValueError, match=r"cannot copy packed, which holds torch\.int8; quantise with bitsandbytes"):
        plain_copy(layer)
