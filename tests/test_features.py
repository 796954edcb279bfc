"""The feature store says what the frozen parts say, and asks them once."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seglens.backbones import Backbone
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder
from seglens.features import FeatureStore, collect
from seglens.types import Sample, Target

HALF = {"rtol": 2**-11, "atol": 2**-24}  # rounding to fp16: half a unit in the last place, and its smallest number
RATIOS = {"rtol": 0.0, "atol": 0.5 / 255 + 1e-6}  # areas are stored in 255 steps


def test_the_store_is_what_is_read(
    store: FeatureStore, lessons: WorldData, backbone: Backbone, decoder: MaskDecoder
) -> None:
    batch = store.batch([4, 1])
    for row, index in enumerate((4, 1)):
        sample = lessons[index]
        seen = backbone.open(sample.image)
        readout = backbone.read(seen, [target.query for target in sample.targets])
        longest = readout.question.shape[2]
        mask = batch.readout.question_mask[row]
        torch.testing.assert_close(batch.readout.prefix[row], readout.prefix[0], **HALF)
        torch.testing.assert_close(batch.readout.question[row, :, :longest], readout.question[0], **HALF)
        expected = decoder.encode(sample.image, seen.frame).coarse[0]
        torch.testing.assert_close(batch.embedding.coarse[row], expected, **HALF)
        assert torch.equal(mask[:, :longest], readout.question_mask[0])
        assert torch.equal(batch.readout.question_positions[row, :, :longest], readout.question_positions[0])
        assert torch.equal(batch.readout.prefix_positions[row], readout.prefix_positions[0])
        truth = torch.from_numpy(np.stack([target.mask for target in sample.targets]))
        torch.testing.assert_close(batch.masks[row], seen.frame.to_canvas_mask(truth, 4 * decoder.side), **RATIOS)
        torch.testing.assert_close(batch.cells[row], seen.frame.to_canvas_mask(truth, backbone.grid[0]), **RATIOS)
        assert batch.present[row].tolist() == [target.present for target in sample.targets]
    assert batch.readout.grid == backbone.grid
    assert torch.equal(batch.readout.image_tokens, readout.image_tokens)


def test_questions_are_padded_to_the_longest(store: FeatureStore) -> None:
    lengths = store.question_mask.sum(-1)
    assert lengths.max() == store.question.shape[2] == store.question_mask.shape[2]
    assert lengths.min() < lengths.max()
    for length, mask in zip(lengths.flatten(), store.question_mask.flatten(0, 1), strict=True):
        assert mask[:length].all()
        assert not mask[length:].any()


def test_memory_is_halves_and_bytes(store: FeatureStore) -> None:
    kinds = {field.name: getattr(store, field.name).dtype for field in fields(store)}
    assert kinds == {
        "prefix": torch.float16, "question": torch.float16, "embedding": torch.float16, "question_mask": torch.bool,
        "masks": torch.uint8, "cells": torch.uint8, "present": torch.bool, "image_tokens": torch.int64,
    }  # fmt: skip
    batch = store.batch([0])
    assert {t.dtype for t in (batch.readout.prefix, batch.readout.question, batch.embedding.coarse, batch.masks)} == {
        torch.float32
    }


def test_saved_and_loaded(store: FeatureStore, tmp_path: Path) -> None:
    store.save(tmp_path / "deep" / "features.safetensors")
    loaded = FeatureStore.load(tmp_path / "deep" / "features.safetensors")
    for field in fields(store):
        assert torch.equal(getattr(store, field.name), getattr(loaded, field.name)), field.name
    assert len(loaded) == 6
    assert loaded.fingerprint() == store.fingerprint()
    assert replace(store, cells=255 - store.cells).fingerprint() != store.fingerprint()
    assert replace(store, question=store.question + 1).fingerprint() != store.fingerprint()


def test_a_damaged_store_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    store.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cut short"):
        FeatureStore.load(path)


def test_every_image_is_seen_once(backbone: Backbone, decoder: MaskDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {"open": 0, "read": 0, "encode": 0, "tick": 0}

    def counted(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: object) -> object:
            seen[name] += 1
            return real(*arguments)

        monkeypatch.setattr(owner, name, call)

    def tick() -> None:
        seen["tick"] += 1

    counted(backbone, "open")
    counted(backbone, "read")
    counted(decoder, "encode")
    collect(WorldData(n=3, seed=8, queries=5), backbone, decoder, tick)
    assert seen == {"open": 3, "read": 3, "encode": 3, "tick": 3}


def test_samples_that_cannot_be_stored_together(backbone: Backbone, decoder: MaskDecoder) -> None:
    image, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool)
    samples = [Sample(str(n), image, (Target("cat", mask),) * n) for n in (1, 2)]
    with pytest.raises(ValueError, match="differ in queries"):
        collect(samples, backbone, decoder)
    with pytest.raises(ValueError, match="no samples"):
        collect([], backbone, decoder)
