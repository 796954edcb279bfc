"""A cache gives back what was put in, maps it without copies, and refuses by name what is not as it was written."""

from __future__ import annotations

import gc
import json
import pickle
import random
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up import KEY, Pictures, extract, files, manifest_for, same
from safetensors import safe_open

from seglens.features.cache import Cache, CacheError, Manifest, build
from seglens.features.cache.fingerprint import digest
from seglens.features.cache.manifest import read_manifest
from seglens.features.cache.reader import MAPPED
from seglens.features.examples import ExampleSource
from seglens.features.frozen import Features

SAMPLES = Pictures()
LINUX = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at /proc, as Linux has it")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images in four shards."""
    build(SAMPLES, extract, tmp_path / "cache", manifest_for(SAMPLES))
    return tmp_path / "cache"


def everything(cache: Cache, images: Iterable[int] | None = None) -> list[Features]:
    images = range(len(cache)) if images is None else images
    return [cache.example(image, tuple(range(cache.questions(image)))) for image in images]


def test_features_come_back_bit_for_bit(folder: Path) -> None:
    cache = Cache.open(folder, KEY, "pictures:n=10")
    assert isinstance(cache, ExampleSource)
    assert len(cache) == 10
    assert [cache.questions(image) for image in range(10)] == [1 + image % 4 for image in range(10)]
    for image, features in enumerate(everything(cache)):
        assert same(features, extract(SAMPLES[image]))
        assert cache.index(image) == image


def test_positions_of_several_axes(tmp_path: Path) -> None:
    build(SAMPLES, lambda sample: extract(sample, three_axes=True), tmp_path, manifest_for(SAMPLES))
    for image, features in enumerate(everything(Cache.open(tmp_path))):
        assert same(features, extract(SAMPLES[image], three_axes=True))


def test_only_the_questions_that_are_asked_for(folder: Path) -> None:
    whole = extract(SAMPLES[7])
    features = Cache.open(folder).example(7, (3, 0))
    assert same(features, replace(whole, questions=(whole.questions[3], whole.questions[0])))


def test_layouts_that_differ_are_kept_apart(tmp_path: Path) -> None:
    def of_two_sizes(sample: object) -> Features:
        features = extract(sample)  # type: ignore[arg-type]
        if int(sample.id) % 2:  # type: ignore[attr-defined]
            return replace(
                features, grid=(2, 8), prefix=features.prefix[:-1], prefix_positions=features.prefix_positions[:-1]
            )
        return features

    build(SAMPLES, of_two_sizes, tmp_path, manifest_for(SAMPLES))
    for image, features in enumerate(everything(Cache.open(tmp_path))):
        assert same(features, of_two_sizes(SAMPLES[image]))
    note = json.loads((tmp_path / "shard-00000.json").read_text())["body"]
    assert len(note["layouts"]) == 2


def test_any_safetensors_reader_opens_a_shard(folder: Path) -> None:
    with safe_open(folder / "shard-00001.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("1.prefix"), extract(SAMPLES[3]).prefix)
        assert torch.equal(file.get_tensor("0.image_tokens"), torch.arange(5, 21))


def test_nothing_is_copied(folder: Path) -> None:
    """All tensors of an image, and the same tensor asked for twice, lie in one mapped file."""
    cache = Cache.open(folder)
    once, again = (cache.example(2, (0, 1, 2)) for _ in range(2))
    assert once.prefix.data_ptr() == again.prefix.data_ptr()
    file = cache._shard(0)
    begin, end = file._bytes.data_ptr(), file._bytes.data_ptr() + len(file._bytes)
    tensors = [once.prefix, once.prefix_positions, once.embedding.coarse, *once.embedding.fine]
    tensors += [part for one in once.questions for part in (one.rows, one.positions, one.mask, one.cells)]
    assert all(begin <= tensor.data_ptr() < end for tensor in tensors)
    assert all(tensor.data_ptr() % tensor.itemsize == 0 for tensor in tensors)


READ_IN_LITTLE = """
import re, resource, sys
from pathlib import Path
from seglens.features.cache import Cache
cache = Cache.open(sys.argv[1])
used = int(re.search(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_DATA, ((used << 10) + (32 << 20), resource.RLIM_INFINITY))
held = [cache.example(image, ()) for image in range(len(cache))]
print(sum(features.prefix.nbytes for features in held), flush=True)
[features.prefix.clone() for features in held]
"""


@pytest.mark.slow
@LINUX
def test_memory_is_that_of_the_map_alone(tmp_path: Path) -> None:
    """Four times 42 MB are read within 32 MB of memory of one's own, where their copies do not fit."""

    def large(sample: object) -> Features:
        return replace(extract(sample), prefix=torch.ones(21, 1_000_000, dtype=torch.bfloat16))  # type: ignore[arg-type]

    samples = Pictures(4)
    build(samples, large, tmp_path, manifest_for(samples, per_shard=1))
    done = subprocess.run([sys.executable, "-c", READ_IN_LITTLE, tmp_path], capture_output=True, text=True)
    assert done.stdout.strip() == str(4 * 42_000_000), done.stderr
    assert "memory" in done.stderr.splitlines()[-1]  # the limit is one


@LINUX
def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    samples = Pictures(MAPPED + 70)
    build(samples, extract, tmp_path, manifest_for(samples, per_shard=1))
    cache = Cache.open(tmp_path)
    used = len(list(Path("/proc/self/fd").iterdir()))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + MAPPED + 8, before[1]))
    try:
        held = [cache.example(image, ()).prefix.sum() for image in range(len(cache))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(held) == len(samples)
    (tmp_path / "shard-00000.safetensors").write_bytes(b"x" * (tmp_path / "shard-00000.safetensors").stat().st_size)
    with pytest.raises(CacheError, match=r"shard-00000.safetensors is damaged"):
        cache.example(0, ())  # closed meanwhile, and another file by now: checked anew


@LINUX
def test_files_are_closed_with_the_last_tensor(folder: Path) -> None:
    def mapped() -> bool:  # this very file: a failed test's traceback may hold another
        return str(folder / "shard-00000.safetensors") in Path("/proc/self/maps").read_text()

    gc.disable()
    try:
        held = Cache.open(folder).example(0, ())
        assert mapped()
        assert same(held, replace(extract(SAMPLES[0]), questions=()))
        del held
        assert not mapped()
    finally:
        gc.enable()


def test_a_worker_process_gets_its_own(folder: Path) -> None:
    cache = Cache.open(folder)
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.fingerprint() == cache.fingerprint()
    assert all(map(same, everything(copy), everything(cache)))


def test_the_fingerprint_is_that_of_the_content(folder: Path, tmp_path: Path) -> None:
    cache = Cache.open(folder)
    folder.rename(tmp_path / "elsewhere")
    assert Cache.open(tmp_path / "elsewhere").fingerprint() == cache.fingerprint()
    others = [(Pictures(seed=1), manifest_for(SAMPLES)), (SAMPLES, replace(manifest_for(SAMPLES), data="others"))]
    for number, (samples, manifest) in enumerate(others):
        build(samples, extract, tmp_path / str(number), manifest)
        assert Cache.open(tmp_path / str(number)).fingerprint() != cache.fingerprint()


# ---------------------------------------------------------------- what is refused, and how


@pytest.mark.parametrize("name", ["manifest.json", "shard-00002.json", "shard-00002.safetensors"])
def test_a_flipped_bit_anywhere_is_refused_by_name(folder: Path, name: str) -> None:
    """Every third byte of the notes, 150 random ones of the tensors, and how long the header is."""
    path = folder / name
    whole = path.read_bytes()
    random.seed(0)
    places = range(0, len(whole), 3) if name.endswith(".json") else [*range(8), *random.sample(range(len(whole)), 150)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CacheError, match=re.escape(name)):
            everything(Cache.open(folder), range(6, 9))
    path.write_bytes(whole)
    assert len(everything(Cache.open(folder))) == 10


def test_an_error_names_the_sample(folder: Path) -> None:
    cache = Cache.open(folder)
    file = cache._shard(1)
    path = folder / "shard-00001.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[file.groups[2].begin + 3] ^= 16
    path.write_bytes(damaged)
    cache = Cache.open(folder)
    assert same(cache.example(3, (0,)), replace(extract(SAMPLES[3]), questions=extract(SAMPLES[3]).questions[:1]))
    with pytest.raises(CacheError, match=r"damaged in sample '4' .* run `seglens cache build --out .*cache` again"):
        cache.example(4, (0,))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: cut(f / "shard-00001.safetensors", 5), r"shard-00001.safetensors has \d+ bytes, not the \d+"),
        (lambda f: cut(f / "shard-00001.json", 5), r"shard-00001.json is damaged, cut short or was edited"),
        (lambda f: cut(f / "manifest.json", 5), r"manifest.json is damaged, cut short or was edited"),
        (lambda f: (f / "shard-00003.json").unlink(), r"lacks 1 of 4 shards \(shard-00003.safetensors\); run `seglens"),
        (lambda f: (f / "shard-00003.safetensors").unlink(), r"lacks 1 of 4 shards \(shard-00003.safetensors\)"),
        (lambda f: (f / "manifest.json").unlink(), "holds no feature cache: there is no manifest.json"),
        (lambda f: (f / "shard-00001.json").replace(f / "shard-00002.json"), "lacks 1 of 4"),
        (lambda f: copy(f, "shard-00001.json", "shard-00002.json"), "another cache or place .shard is 1, wanted 2"),
        (lambda f: copy(f, "shard-00001.safetensors", "shard-00002.safetensors"), "shard-00002.safetensors"),
        (lambda f: resealed(f / "manifest.json", schema=99), "schema version 99, and this is version 1"),
        (lambda f: resealed(f / "manifest.json", samples=11), "another cache or place .manifest is"),
        (lambda f: resealed(f / "manifest.json", more=1), "lacks or adds entries"),
        (lambda f: resealed(f / "shard-00000.json", header=None), "shard-00000.json lacks or adds entries"),
        (lambda f: (f / "shard-00000.json").write_text("[" * 9999), "shard-00000.json is damaged"),
    ],
)
def test_damaged_and_foreign_files_are_refused(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    with pytest.raises(CacheError, match=message) as caught:
        everything(Cache.open(folder))
    assert "\n" not in str(caught.value)


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def copy(folder: Path, source: str, target: str) -> None:
    (folder / target).write_bytes((folder / source).read_bytes())


def resealed(path: Path, **entries: object) -> None:
    """Edit a file and mend its checksum: a deliberate change."""
    body = json.loads(path.read_text())["body"] | entries
    path.write_text(json.dumps({"seal": digest(body), "body": body}, indent=1) + "\n")


def test_a_shard_of_another_build_is_refused(folder: Path, tmp_path: Path) -> None:
    build(SAMPLES, extract, tmp_path / "other", replace(manifest_for(SAMPLES), key={"backbone": {"layer": 15}}))
    for name in ("shard-00001.json", "shard-00001.safetensors"):
        (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(CacheError, match=r"shard-00001.json belongs to another cache"):
        Cache.open(folder)


def test_another_key_is_refused_with_both_values(folder: Path) -> None:
    wanted = {**KEY, "backbone": {**KEY["backbone"], "layer": 16, "template": "chat"}}
    message = r"backbone.layer is 14, wanted 16; backbone.template is nothing, wanted \"chat\""
    with pytest.raises(CacheError, match=message):
        Cache.open(folder, wanted)
    with pytest.raises(CacheError, match=r"data is \"pictures:n=10\", wanted \"refcoco:split=val\""):
        Cache.open(folder, KEY, "refcoco:split=val")


def test_the_manifest_is_what_was_asked_for(folder: Path) -> None:
    assert read_manifest(folder) == Manifest(json.loads(json.dumps(KEY)), "pictures:n=10", 10, per_shard=3)
    shards = {f"shard-0000{shard}.{kind}" for shard in range(4) for kind in ("json", "safetensors")}
    assert set(files(folder)) == {"manifest.json"} | shards


def test_an_image_that_is_not_there(folder: Path) -> None:
    for image in (-1, 10):
        with pytest.raises(IndexError, match="holds 10"):
            Cache.open(folder).example(image, ())
