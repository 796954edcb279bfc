"""The essential of the contract for the kinds whose other tests run among the slow ones: read, attention, chat."""

from __future__ import annotations

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
    for (keys, values), layer in zip(opened.memory, cache.layers, strict=False):
        assert error(keys, layer.keys[:, :, :start]) < TOLERANCE
        assert error(values, layer.values[:, :, :start]) < TOLERANCE
    reader = backbone.head_reader(backbone.depth)
    maps = reader.read(reader.open(IMAGE), [QUESTION]).maps[0, :, :, 0].flatten(2)
    image = ids[0] == bare.model.config.image_token_id
    expected = torch.stack([a[0, :, -1, image] for a in whole.attentions if a is not None])
    assert error(maps, expected) < TOLERANCE
    assert backbone.generate(IMAGE, QUESTION, 4) == bare.talk(IMAGE, QUESTION, 4)[0]
