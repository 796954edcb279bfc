"""However often a build is killed, and by how many processes it is done, the same bytes come of it."""

from __future__ import annotations

import errno
import multiprocessing
import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import KEY, Forgiving, Pictures, extract, files, manifest_for, slowly

from seglens.core.distributed import Ranks
from seglens.core.locks import LOCK, InUseError, held
from seglens.core.types import Embedding, Sample
from seglens.data.faults import RecordFault
from seglens.features.cache import Built, Cache, CacheError, Manifest, build, left_out
from seglens.features.cache.whole_files import sweep, writing
from seglens.features.frozen import Features

SAMPLES = Pictures(40)
FORK = multiprocessing.get_context("fork")  # a real process with its own death, without the price of an import


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Forty images in fourteen shards, by one process in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = build(SAMPLES, extract, folder, manifest_for(SAMPLES))
    assert done == Built(tuple(range(14)), (), ())
    return files(folder)


def in_a_process(folder: Path, rank: int = 0, world: int = 1) -> multiprocessing.process.BaseProcess:
    work = (SAMPLES, slowly, folder, manifest_for(SAMPLES), Ranks(rank, world))
    process = FORK.Process(target=build, args=work)
    process.start()
    return process


def test_killed_at_any_moment(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """SIGKILL after random times until one build gets through: nothing that cannot be read, and the same bytes."""
    random.seed(0)
    kills = partial = 0
    process = in_a_process(tmp_path)
    while kills < 20 and process.exitcode is None:
        if kills % 2:  # in the middle of writing a file
            while process.is_alive() and not list(tmp_path.glob(".*.partial")):
                pass
        else:
            process.join(random.uniform(0.0, 0.06))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        left = files(tmp_path)
        partial += any(name.endswith(".partial") for name in left)
        assert all(left[name] == undisturbed[name] for name in left if not name.endswith((".partial", LOCK)))
        if process.exitcode != 0:
            process = in_a_process(tmp_path)
    process.join()
    assert process.exitcode == 0
    assert kills >= 5
    assert partial >= 3
    assert files(tmp_path) == undisturbed


@pytest.mark.parametrize("world", [2, 3, 20])
def test_several_processes(undisturbed: dict[str, bytes], tmp_path: Path, world: int) -> None:
    """Side by side; twenty are more than there are shards."""
    processes = [in_a_process(tmp_path, rank, world) for rank in range(world)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * world
    assert files(tmp_path) == undisturbed


def named(lock: Path, process: int | None) -> bool:
    """Whether the lock file names the process: the file is there a moment before it is locked."""
    return lock.exists() and f'"pid": {process},' in lock.read_text()


def test_another_launch_is_refused_until_the_cache_is_complete(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """It is refused while something is missing; any number of launches may use a complete cache."""
    process = in_a_process(tmp_path)
    while process.is_alive() and not named(tmp_path / LOCK, process.pid):
        pass
    with pytest.raises(InUseError, match=f"process {process.pid} .*wait for its end"):
        build(SAMPLES, slowly, tmp_path, manifest_for(SAMPLES))
    process.join()
    assert process.exitcode == 0
    assert files(tmp_path) == undisturbed
    with held(tmp_path / LOCK):
        assert build(SAMPLES, extract, tmp_path, manifest_for(SAMPLES)).written == ()


def test_intact_shards_are_kept_and_damaged_ones_written_again(tmp_path: Path) -> None:
    samples = Pictures()
    build(samples, extract, tmp_path, manifest_for(samples))
    whole = files(tmp_path)
    (tmp_path / "shard-00000.json").unlink()
    (tmp_path / "shard-00001.safetensors").write_bytes(whole["shard-00001.safetensors"][:-1] + b"?")
    (tmp_path / "shard-00003.json").write_bytes(b"{}")
    computed = list[str]()

    def counted(sample: Sample) -> Features:
        computed.append(sample.id)
        return extract(sample)

    done = build(samples, counted, tmp_path, manifest_for(samples))
    assert done == Built((0, 1, 3), (2,), ())
    assert computed == ["0", "1", "2", "3", "4", "5", "9"]
    assert files(tmp_path) == whole


def test_a_lost_manifest_is_written_again_and_the_shards_are_kept(tmp_path: Path) -> None:
    samples = Pictures()
    build(samples, extract, tmp_path, manifest_for(samples))
    (tmp_path / "manifest.json").unlink()
    again = build(samples, extract, tmp_path, replace(manifest_for(samples), command="another command"))
    assert again == Built((), (0, 1, 2, 3), ())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dtype": "int8"}, r'dtype is "auto", wanted "int8"'),
        ({"per_shard": 4}, "per_shard is 3, wanted 4"),
        ({"data": "others"}, r'data is "pictures:n=10", wanted "others"'),
        ({"trainable": False}, "trainable is true, wanted false"),
        ({"key": {**KEY, "decoder": {}}}, r"key.decoder.mean is \[0.5, 0.5\], wanted nothing; key.decoder.name"),
    ],
)
def test_another_cache_in_the_folder_is_left_alone(tmp_path: Path, changed: dict, message: str) -> None:
    samples = Pictures()
    build(samples, extract, tmp_path, manifest_for(samples))
    before = files(tmp_path)
    with pytest.raises(CacheError, match=rf"holds another cache .*{message}.*give another folder"):
        build(samples, extract, tmp_path, replace(manifest_for(samples), **changed))
    assert files(tmp_path) == before


def test_bad_samples_are_refused_or_left_out_with_their_reason(tmp_path: Path) -> None:
    samples = Pictures(10, broken=(4, 9))
    with pytest.raises(CacheError, match=r"sample 4 of pictures:n=10 cannot be read: data/4.jpg is cut short; mend it"):
        build(samples, extract, tmp_path, manifest_for(samples))
    lenient = Forgiving(10, broken=(4, 9))
    done = build(lenient, extract, tmp_path, manifest_for(lenient))
    assert done.kept == (0,)
    whys = {index: str(RecordFault("data.json", str(index), f"data/{index}.jpg is cut short")) for index in (4, 9)}
    assert {one.index: one.why for one in done.skipped} == whys
    assert build(lenient, extract, tmp_path, manifest_for(lenient)).skipped == done.skipped
    cache = Cache.open(tmp_path)
    assert tuple(cache.skipped) == done.skipped
    faults = [RecordFault("data.json", "4", "data/4.jpg is cut short"), RecordFault("data.json", "11", "has no file")]
    assert left_out(faults, cache.skipped) == [str(faults[1]), *whys.values()]  # each once
    assert [cache.index(image) for image in range(len(cache))] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(cache.example(4, ()).prefix, extract(samples[5]).prefix)


def test_a_sample_without_a_usable_question_is_left_out(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)

    class Two:
        faults = ()

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Sample:
            return Sample(f"number {index}", image, Pictures()[0].targets if index else ())

        def usable(self, index: int) -> tuple[Sample | None, list[RecordFault]]:
            return None, []

    class Strict(Two):
        usable = None

    def refuse(sample: Sample) -> Features:
        raise ValueError("a question of 513\n  tokens")

    manifest = Manifest(KEY, "two", 2)
    with pytest.raises(CacheError, match="sample 0 of two cannot be read: 'number 0' has no question; mend it"):
        build(Strict(), refuse, tmp_path, manifest)
    with pytest.raises(CacheError, match="sample 4 of ten cannot be read: a question of 513 tokens; mend it"):
        build(
            Pictures(),
            lambda one: refuse(one) if one.id == "4" else extract(one),
            tmp_path / "b",
            Manifest(KEY, "ten", 10),
        )
    done = build(Two(), refuse, tmp_path, manifest)
    assert [one.why for one in done.skipped] == [f"sample {index} has nothing to ask about" for index in (0, 1)]
    with pytest.raises(CacheError, match="holds no image: every sample was skipped"):
        Cache.open(tmp_path)


@pytest.mark.parametrize("samples", [Pictures(), Forgiving()])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_never_stored(tmp_path: Path, value: float, samples: Pictures) -> None:
    def overflowing(sample: Sample) -> Features:
        features = extract(sample)
        if sample.id == "5":
            features.embedding.fine[0][0, 0, 3, 3] = value
        return features

    message = (
        r"sample 5 \('5'\) of pictures:n=10: fine.0 holds 1 values that are NaN or infinite, of 576; check the weights"
    )
    with pytest.raises(CacheError, match=message):
        build(samples, overflowing, tmp_path, manifest_for(samples))
    assert set(files(tmp_path)) == {"manifest.json", "shard-00000.json", "shard-00000.safetensors"}


def test_values_that_overflow_in_half_precision_are_refused(tmp_path: Path) -> None:
    def loud(sample: Sample) -> Features:
        return replace(extract(sample), embedding=Embedding(torch.full((1, 2, 3, 3), 7e4)))

    with pytest.raises(CacheError, match=r"coarse holds 18 values .* fp16 cannot hold them: store with --dtype auto"):
        build(Pictures(), loud, tmp_path / "fp16", manifest_for(Pictures(), dtype="fp16"))
    build(Pictures(), loud, tmp_path / "auto", manifest_for(Pictures()))
    assert len(Cache.open(tmp_path / "auto")) == 10


def test_an_error_of_the_code_is_not_taken_for_bad_data(tmp_path: Path) -> None:
    def wrong(sample: Sample) -> Features:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="do not fit"):
        build(Forgiving(), wrong, tmp_path, manifest_for(Pictures()))


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="shard=0"):
        manifest_for(SAMPLES, per_shard=0)
    with pytest.raises(CacheError, match="dtype='fp8'; choose from auto, bf16, fp16, int8"):
        manifest_for(SAMPLES, dtype="fp8")
    with pytest.raises(CacheError, match="manifest is for 40 samples, and pictures:n=10 has 10"):
        build(Pictures(), extract, tmp_path, manifest_for(SAMPLES))


# ---------------------------------------------------------------- files that are whole or not there


@pytest.fixture
def little_room(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small disk ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(little_room: Path, undisturbed: dict[str, bytes]) -> None:
    """What is finished stays, nothing is half written, and with room the build goes on."""
    folder = little_room / "cache"
    with pytest.raises(CacheError, match=r"shard-\d+.* cannot be written: No space left on device .* make room"):
        build(SAMPLES, extract, folder, manifest_for(SAMPLES))
    left = files(folder)
    assert {name: data for name, data in undisturbed.items() if name in left} == left
    assert len(left) >= 3
    subprocess.run(["mount", "-o", "remount,size=8m", little_room], check=True)
    done = build(SAMPLES, extract, folder, manifest_for(SAMPLES))
    assert done.kept
    assert files(folder) == undisturbed


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with (
            pytest.raises(CacheError, match=r"large.* cannot be written: File too large"),
            writing(tmp_path / "large") as f,
        ):
            f.write(b"x" * 100_000)
        with pytest.raises(CacheError, match="File too large"), writing(tmp_path / "buffered") as f:
            f.write(b"x" * 1001)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(tmp_path) == {}


def test_other_errors_are_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="its own") as caught, writing(tmp_path / "file"):
        raise OSError(errno.EIO, "its own")
    assert not isinstance(caught.value, CacheError)
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "file"):
        raise KeyboardInterrupt
    assert files(tmp_path) == {}


def test_only_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".shard-00000.json.0123.partial").write_bytes(b"of somebody killed")
    (tmp_path / ".other").write_bytes(b"not ours")
    with writing(tmp_path / "file") as stream:
        stream.write(b"of somebody at work")
        process = FORK.Process(target=sweep, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert len(files(tmp_path)) == 2
    assert files(tmp_path) == {"file": b"of somebody at work", ".other": b"not ours"}


def test_a_reader_never_opens_an_unfinished_cache(tmp_path: Path) -> None:
    """While a build runs, opening names the missing shards, and nothing else ever fails."""
    process = in_a_process(tmp_path)
    messages = list[str]()
    while process.is_alive():
        try:
            assert len(Cache.open(tmp_path)) == 40
        except CacheError as error:
            messages.append(str(error))
        time.sleep(0.001)
    assert messages
    assert all(re.search(r"lacks \d+ of 14 shards|there is no manifest", message) for message in messages)
    assert len(Cache.open(tmp_path)) == 40
