"""Masks survive every encoding, and damaged encodings are refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from seglens.core.files import write_atomic, write_json
from seglens.data.maskfile import load_mask
from seglens.data.masks import decode_rle, encode_rle, save_png

ROOT = Path(__file__).parents[2]


def shared(relative: str) -> Path:
    """A file of the real data outside the repository, or a skip that names what is missing."""
    path = ROOT.parent / "shared" / "data" / relative
    if not path.exists():
        pytest.skip(f"real material is not here: {path}")
    return path


def random_mask(height: int, width: int, density: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < density


def reference(rle: dict[str, Any]) -> np.ndarray:
    """pycocotools' own decoder, whose numpy code is older than the warning that numpy 2 gives it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco.decode(rle).astype(bool)


masks = st.builds(random_mask, st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**31))
quick = settings(deadline=None, database=None, max_examples=100)


@quick
@given(masks)
def test_rle_round_trip(mask: np.ndarray) -> None:
    rle = json.loads(json.dumps(encode_rle(mask)))
    assert np.array_equal(decode_rle(rle), mask)
    assert np.array_equal(decode_rle(rle, mask.shape), mask)
    assert np.array_equal(reference(rle), mask)
    assert np.array_equal(decode_rle({**rle, "counts": rle["counts"].encode()}), mask)


@quick
@given(masks)
def test_uncompressed_rle(mask: np.ndarray) -> None:
    edges = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=not mask[-1, -1]))
    counts = np.diff(edges, prepend=0).tolist()
    assert np.array_equal(decode_rle({"size": list(mask.shape), "counts": counts}), mask)


def test_rle_of_large_runs() -> None:
    mask = np.zeros((3000, 2000), bool)
    mask[5:2900, 7:1990] = True
    mask[1000, 900] = False
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)


def test_rle_of_another_size_is_refused() -> None:
    rle = encode_rle(np.ones((4, 6), bool))
    with pytest.raises(ValueError, match=r"4 x 6 \(height x width\); it needs 6 x 4"):
        decode_rle(rle, (6, 4))
    with pytest.raises(ValueError, match="do not fill 4 x 7"):
        decode_rle({**rle, "size": [4, 7]})


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [4, 4]},
        {"size": [4], "counts": "0`0"},
        {"size": ["4", "4"], "counts": [16]},
        {"size": [4, 4], "counts": None},
        {"size": [4, 4], "counts": ""},
        {"size": [4, 4], "counts": []},
        {"size": [4, 4], "counts": "P"},  # promises a further byte
        {"size": [4, 4], "counts": "é"},
        {"size": [4, 4], "counts": "\x00\x01"},
        {"size": [4, 4], "counts": "o" * 20},
        {"size": [4, 4], "counts": [20, -4]},
        {"size": [4, 4], "counts": [8, 80]},
        {"size": [4, 4], "counts": [2**63 - 1, 2**63 - 1, 18]},  # wraps around to 16
        {"size": [4, 4], "counts": [2**70]},
        {"size": [0, 4], "counts": []},
        {"size": [-4, -4], "counts": [16]},
        {"size": [10**6, 10**6], "counts": [10**12]},
    ],
)
def test_invalid_rle_is_refused(rle: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="decode_rle got"):
        decode_rle(rle)


@quick
@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=30))
def test_any_string_is_a_mask_or_refused(counts: str) -> None:
    try:
        mask = decode_rle({"size": [5, 5], "counts": counts})
    except ValueError:
        return
    assert mask.shape == (5, 5)
    assert np.array_equal(mask, reference({"size": [5, 5], "counts": counts}))


def test_empty_masks_are_refused(tmp_path: Path) -> None:
    nothing = np.zeros((0, 5), bool)
    with pytest.raises(ValueError, match="at least one pixel"):
        encode_rle(nothing)
    with pytest.raises(ValueError, match="at least one pixel"):
        save_png(nothing, tmp_path / "mask.png")


def test_real_coco_masks() -> None:
    record = json.loads(shared("coco/annotations/instances_train2017.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in record["images"]}
    crowds = 0
    for annotation in record["annotations"]:
        size, segmentation = sizes[annotation["image_id"]], annotation["segmentation"]
        if isinstance(segmentation, dict):
            crowds += 1
            mask = decode_rle(segmentation, size)
            # Not against the stated area, which for crowds differs from their own runs by up to a tenth.
            assert np.array_equal(mask, reference(coco.frPyObjects(segmentation, *size)))
        else:
            rle = coco.merge(coco.frPyObjects(segmentation, *size))
            mask = decode_rle(rle, size)
            assert np.array_equal(mask, reference(rle))
        assert np.array_equal(decode_rle(encode_rle(mask), size), mask)
    assert 0 < crowds < len(record["annotations"])


@quick
@given(masks)
def test_png_round_trip(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "mask.png"
    save_png(mask, path)
    assert np.array_equal(load_mask(path), mask)
    with Image.open(path) as image:
        assert image.mode == "L"
        assert image.format == "PNG"


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_json_holds_any_text_and_no_nan(tmp_path: Path) -> None:
    path, value = tmp_path / "value.json", {"text": "é 漢字 🦌 \ud800 \\ud800", "n": [1, 2.5, None]}
    write_json(path, value)
    assert json.loads(path.read_text("utf-8")) == value
    assert "漢字" in path.read_text("utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text("utf-8")) == value


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"counts": "P"}, "it has no size"),
        ({"size": [1, "a"], "counts": "P"}, r"its size is \[1, 'a'\], not two whole numbers"),
        ({"size": 3, "counts": "P"}, "its size is 3, not two whole numbers"),
        ({"size": [1, 1]}, "it has no counts"),
        ({"size": [1, 1], "counts": "@\u00e9"}, "counts hold a character outside COCO's 64"),
    ],
)
def test_a_missing_part_of_an_rle_is_named(rle: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"invalid RLE \({message}\); it needs COCO's"):
        decode_rle(rle)
