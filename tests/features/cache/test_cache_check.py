"""Every fault of a cache at once, and what it will weigh before it is written."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import Forgiving, Pictures, extract, files, manifest_for

from seglens.core.types import Sample
from seglens.features.cache import CacheError, Estimate, build, check, estimate

SAMPLES = Pictures()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(SAMPLES, extract, tmp_path / "cache", manifest_for(SAMPLES))
    return tmp_path / "cache"


class Edited:
    """The same samples but for some."""

    def __init__(self, **changed: Sample | ValueError):
        self.changed = {int(name.strip("_")): sample for name, sample in changed.items()}

    def __len__(self) -> int:
        return len(SAMPLES)

    def __getitem__(self, index: int) -> Sample:
        sample = self.changed.get(index, SAMPLES[index])
        if isinstance(sample, ValueError):
            raise sample
        return sample


def test_an_intact_cache_has_no_fault(folder: Path) -> None:
    assert list(check(folder)) == []
    assert list(check(folder, SAMPLES)) == []


def test_a_line_for_every_fault(folder: Path) -> None:
    first, second = folder / "shard-00000.safetensors", folder / "shard-00001.safetensors"
    groups = json.loads((folder / "shard-00000.json").read_text())["body"]["groups"]
    damaged = bytearray(first.read_bytes())
    for group in (1, 3):  # the first is the layout
        damaged[groups[group][0]] ^= 1
    first.write_bytes(damaged)
    second.write_bytes(second.read_bytes()[1:])
    (folder / "shard-00002.json").unlink()
    (folder / "shard-00003.json").write_text("{}")
    faults = list(check(folder, SAMPLES))
    patterns = ["00000.* sample '0'", "00000.* sample '2'", "00001.safetensors has"]
    patterns += ["00002.json is missing", "00003.json is damaged"]
    assert len(faults) == len(patterns)
    for fault, pattern in zip(faults, patterns, strict=True):
        assert re.search(pattern, fault), fault


def test_a_stale_sample_is_named(folder: Path) -> None:
    one, two, three = SAMPLES[2], SAMPLES[3], SAMPLES[8]
    targets = tuple(replace(target, mask=~target.mask) for target in two.targets)
    reworded = (replace(three.targets[0], query="another"), *three.targets[1:])
    now = Edited(
        _2=replace(one, image=255 - one.image),
        _3=replace(two, targets=targets),
        _5=ValueError("5.jpg is gone"),
        _8=replace(three, id="eight", targets=reworded),
    )
    faults = [fault.split("sample ")[1] for fault in check(folder, now)]
    assert faults == [
        "'2' is stale: its pixels changed since; build the cache anew",
        "'3' is stale: its masks changed since; build the cache anew",
        "'5' can no longer be read: 5.jpg is gone",
        "'8' is stale: its id, its questions changed since; build the cache anew",
    ]
    assert list(check(folder, Pictures(11))) == [f"{folder} was made of 10 samples, and the data has 11; build it anew"]


def test_a_change_that_keeps_the_quick_checksums_is_found(folder: Path) -> None:
    """Four bytes chosen so that the CRC stays: an intent, which SHA-256 is for."""
    path = folder / "shard-00000.safetensors"
    begin = json.loads((folder / "shard-00000.json").read_text())["body"]["groups"][1][0]
    forged = bytearray(path.read_bytes())
    # x^32 + ... + 1, the polynomial itself in reflected order, changes no remainder
    pattern = (0xEDB88320 << 1 | 1).to_bytes(5, "little")
    for at, byte in enumerate(pattern):
        forged[begin + 8 + at] ^= byte
    path.write_bytes(forged)
    (fault,) = check(folder)
    assert "its SHA-256 differs" in fault


@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_an_estimate_is_close_and_writes_nothing(tmp_path: Path, dtype: str) -> None:
    samples = Pictures(80)
    manifest = manifest_for(samples, dtype=dtype, per_shard=16)
    estimated = estimate(samples, extract, tmp_path / "cache", manifest)
    assert files(tmp_path) == {}
    build(samples, extract, tmp_path / "cache", manifest)
    true = sum(len(data) for data in files(tmp_path / "cache").values())
    assert estimated.bytes == pytest.approx(true, rel=0.06)  # 3 and 4 % off, as 6 images are not 80
    assert (estimated.images, estimated.stored) == (80, 0)
    assert 80 <= estimated.questions <= 320
    assert estimated.free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert estimate(samples, extract, tmp_path / "cache", manifest).stored == pytest.approx(true, abs=2000)


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    words = r"no room for the cache: 10 images, about 30 questions, about 2.00 TB \(200.00 GB per image, 5.00 KB of it"
    words += r" there\); the disk has 999 bytes free"
    with pytest.raises(CacheError, match=words):
        Estimate(10, 30, 2 * 10**12, 999, 5000).refuse(tmp_path)
    Estimate(10, 30, 2000, 999, 1500).refuse(tmp_path)


def test_no_estimate_without_a_readable_sample(tmp_path: Path) -> None:
    samples = Pictures(4, broken=(0, 1, 2, 3))
    with pytest.raises(CacheError, match="sample 0 of pictures:n=10 cannot be read"):
        estimate(samples, extract, tmp_path, manifest_for(samples))
    with pytest.raises(CacheError, match="none of the 4 samples tried"):
        estimate(Forgiving(4, broken=(0, 1, 2, 3)), extract, tmp_path, manifest_for(samples))


def test_an_estimate_that_read_everything_is_exact(tmp_path: Path) -> None:
    """Also in what is left out: the second has two questions, and is broken."""
    few = Forgiving(4, broken=(1,))
    estimated = estimate(few, extract, tmp_path, manifest_for(few))
    assert estimated.questions == 1 + 3 + 4
    assert str(estimated).startswith("4 images, 8 questions, about ")
    many = estimate(Pictures(80), extract, tmp_path, manifest_for(Pictures(80)))
    assert str(many).startswith(f"80 images, about {many.questions} questions, about ")


class Renamed(Pictures):
    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        targets = (replace(target, query=f"and {target.query}") for target in sample.targets)
        return replace(sample, id=f"new {index}", targets=tuple(targets))


def test_other_data_is_one_line(folder: Path) -> None:
    (fault,) = check(folder, Renamed(seed=1))
    assert fault == (
        f"{folder} was made of other data: nothing of its first 3 samples is in this; compare it with pictures:n=10, "
        "or build a cache of this data in another folder"
    )
