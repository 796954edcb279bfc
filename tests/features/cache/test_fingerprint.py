"""The inputs of a cache, and the names of those that differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import Pictures

from seglens.core.types import Target
from seglens.features.cache import differing, identity
from seglens.features.cache.fingerprint import canonical, image_digest, listed, truth_digest

SIGNATURE = {"type": "sam", "name": "here", "revision": None, "dtype": "float32"}


def model(folder: Path) -> Path:
    folder.mkdir()
    names = ("model.int8.safetensors", "config.json", "preprocessor_config.json", "chat_template.jinja", "README.md")
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_folder_is_what_is_in_it(tmp_path: Path) -> None:
    here, there = model(tmp_path / "here"), model(tmp_path / "there")
    part = identity({**SIGNATURE, "name": str(here)}, str(here))
    assert part.keys() == {"type", "dtype", "files"}
    assert part == identity({**SIGNATURE, "name": str(there)}, str(there))
    (there / "README.md").write_text("other words")
    assert part == identity(SIGNATURE, str(there))


@pytest.mark.parametrize("name", ["model.int8.safetensors", "preprocessor_config.json", "chat_template.jinja"])
def test_every_file_that_decides_counts(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "model")
    before = identity(SIGNATURE, str(folder))
    (folder / name).write_bytes(b"other")
    after = identity(SIGNATURE, str(folder))
    assert [fault.split(" ")[0] for fault in differing(before, after)] == ["files"]
    (folder / name).rename(folder / f"another_{name}")
    assert identity(SIGNATURE, str(folder)) != after


def test_a_hub_id_is_its_name_and_commit() -> None:
    assert identity(SIGNATURE, "org/sam", "c0ffee") == {**SIGNATURE, "name": "org/sam", "revision": "c0ffee"}
    pinned = {**SIGNATURE, "revision": "v1"}
    assert identity(pinned, "org/sam", "c0ffee")["revision"] == "v1"


def test_differences_are_listed_by_name_and_value() -> None:
    stored = {"a": {"b": 1, "c": (1, 2)}, "d": "x" * 90, "e": None}
    assert differing(stored, {"a": {"b": 1, "c": [1, 2]}, "d": "x" * 90, "e": None}) == []
    assert differing(stored, {"a": {"b": 2, "c": [1, 2]}, "d": "y", "f": 0.5}) == [
        "a.b is 1, wanted 2",
        f'd is "{"x" * 56}..., wanted "y"',
        "e is null, wanted nothing",
        "f is nothing, wanted 0.5",
    ]
    long = f"coco:{'x' * 90},"
    assert differing({"data": f"{long}negatives=0.2"}, {"data": long}) == [
        f'data is ...{"x" * 42},negatives=0.2", wanted ...{"x" * 55},"'
    ]
    assert listed([str(number) for number in range(6)]) == "0; 1; 2; 3; and 2 more"


def test_an_image_is_its_pixels_and_a_truth_its_masks() -> None:
    sample = Pictures()[3]
    turned = replace(sample, image=np.ascontiguousarray(sample.image.transpose(1, 0, 2)))
    bytes_ = replace(sample, image=sample.image.reshape(1, -1, 3))
    assert len({image_digest(one) for one in (sample, turned, bytes_)}) == 3
    assert image_digest(replace(sample, id="another", image=sample.image.copy(order="F"))) == image_digest(sample)
    first = sample.targets[0]
    flipped = replace(first, mask=~first.mask)
    assert truth_digest(replace(sample, targets=(flipped, *sample.targets[1:]))) != truth_digest(sample)
    assert truth_digest(replace(sample, targets=sample.targets[::-1])) != truth_digest(sample)
    reworded = tuple(Target("another question", target.mask) for target in sample.targets)
    assert truth_digest(replace(sample, targets=reworded)) == truth_digest(sample)


def test_no_nan_in_a_key() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"scale": float("nan")})
