"""Other precisions than the spoken one: how far off they are, and how much smaller."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import Pictures, extract, manifest_for

from seglens.features.cache import Cache, build
from seglens.features.cache.tensors import dequantise, quantise
from seglens.features.frozen import Features

SAMPLES = Pictures(4)


def stored(folder: Path, dtype: str) -> Features:
    """The last image, back from a cache of that type."""
    build(SAMPLES, extract, folder / dtype, manifest_for(SAMPLES, dtype=dtype))
    return Cache.open(folder / dtype).example(3, (0, 1, 2, 3))


@settings(deadline=None, database=None, max_examples=60)
@given(st.integers(0, 2**31 - 1), st.floats(-30, 30), st.sampled_from([0, 1, -1]))
def test_bytes_are_off_by_half_a_step_at_most(seed: int, exponent: float, axis: int) -> None:
    """Rows of any magnitude, each with one value a thousand times the rest, as massive activations are."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(7, 9, 5, generator=generator) * 10**exponent
    values[0, 0, 0] *= 1000
    bytes_, scale = quantise(values, axis)
    assert bytes_.dtype == torch.int8
    assert scale.shape[axis] == 1
    step = values.abs().amax(axis, keepdim=True) / 127
    assert ((dequantise(bytes_, scale, torch.float32) - values).abs() <= step * (0.5 + 1e-4)).all()


def test_zeros_stay_zeros() -> None:
    bytes_, scale = quantise(torch.zeros(3, 4), -1)
    assert torch.equal(dequantise(bytes_, scale, torch.float32), torch.zeros(3, 4))


def test_int8_gives_back_the_spoken_type_within_its_bound(tmp_path: Path) -> None:
    features, true = stored(tmp_path, "int8"), extract(SAMPLES[3])
    pairs = [(features.prefix, true.prefix, -1), (features.embedding.coarse, true.embedding.coarse, 1)]
    pairs += [(ours, theirs, 1) for ours, theirs in zip(features.embedding.fine, true.embedding.fine, strict=True)]
    pairs += [(ours.rows, theirs.rows, -1) for ours, theirs in zip(features.questions, true.questions, strict=True)]
    for ours, theirs, axis in pairs:
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        step = theirs.float().abs().amax(axis, keepdim=True) / 127
        rounding = 2**-8 * theirs.float().abs() if theirs.dtype == torch.bfloat16 else 1e-6
        assert ((ours.float() - theirs.float()).abs() <= 0.5 * step + rounding).all()
        assert not torch.equal(ours, theirs)
    for ours_, theirs_ in zip(features.questions, true.questions, strict=True):
        assert torch.equal(ours_.mask, theirs_.mask)
        assert torch.equal(ours_.positions, theirs_.positions)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_is_a_cast(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    features, true = stored(tmp_path, name), extract(SAMPLES[3])
    assert torch.equal(features.embedding.coarse, true.embedding.coarse.to(dtype))
    assert torch.equal(features.questions[2].rows, true.questions[2].rows.to(dtype))
    assert torch.equal(features.prefix, true.prefix.to(dtype))


def test_int8_is_half_of_bf16(tmp_path: Path) -> None:
    """At the widths of real models: 4096 and 256 values to a scale; here d and c are 1024 and 256."""

    def wide(sample: object) -> Features:
        features = extract(sample)  # type: ignore[arg-type]
        questions = tuple(
            type(one)(torch.ones(len(one.rows), 1024), one.positions, one.mask, one.cells, one.present)
            for one in features.questions
        )
        embedding = type(features.embedding)(torch.ones(1, 256, 32, 32))
        return Features(
            torch.ones(21, 1024), features.prefix_positions, features.image_tokens, (4, 4), embedding, questions
        )

    sizes = {}
    for dtype in ("bf16", "int8"):
        build(SAMPLES, wide, tmp_path / dtype, manifest_for(SAMPLES, dtype=dtype))
        sizes[dtype] = sum(path.stat().st_size for path in (tmp_path / dtype).glob("*.safetensors"))
    assert 0.5 < sizes["int8"] / sizes["bf16"] < 0.52
