"""The command line: every command does its work, every mendable error is one line and exit code 2."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command import Run
from seglens.data.maskfile import load_mask
from seglens.data.masks import decode_rle
from seglens.embedded.subprocess_jobs import StageError
from seglens.world.language import VQA_KINDS
from seglens.world.world import World

SEGLENS = Path(sys.executable).with_name("seglens")
WEIGHTS = Path(__file__).parents[2] / "src" / "seglens" / "weights"


def subprocessed(*arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The installed console script, as a user calls it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([SEGLENS, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes on disk, as `seglens world sample` writes them."""
    folder = tmp_path_factory.mktemp("world")
    done = subprocessed("world", "sample", "--n", 3, "--seed", 7, "--out", folder, cwd=folder)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(folder / "scenes.jsonl"), "")
    return folder


def test_the_description_of_the_samples_is_true(world: Path) -> None:
    lines = [json.loads(line) for line in (world / "scenes.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == ["0000.png", "0001.png", "0002.png"]
    for index, line in enumerate(lines):
        scene = World("test", 7).scene(index)
        with Image.open(world / line["image"]) as image:
            np.testing.assert_array_equal(np.asarray(image), scene.image)
        size = (line["height"], line["width"])
        masks = {}
        for entry, thing in zip(line["things"], scene.things, strict=True):
            mask = masks[entry["id"]] = decode_rle(entry["segmentation"], size)
            np.testing.assert_array_equal(mask, scene.ids == entry["id"])
            assert (entry["name"], entry["group"], entry["colour"]) == (thing.name, thing.group, thing.colour)
            assert entry["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            x, y, w, h = entry["bbox"]
            assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            for part in entry["parts"].values():
                assert (decode_rle(part, size) <= mask).all()
        parts = {(t["id"], part): decode_rle(rle, size) for t in line["things"] for part, rle in t["parts"].items()}
        for query in line["queries"]:
            pieces = [masks[t] if part is None else parts[t, part] for t, part in query["targets"]]
            union = np.any(pieces, 0) if pieces else np.zeros(size, bool)
            np.testing.assert_array_equal(decode_rle(query["segmentation"], size), union)
        assert len(line["queries"]) == 8
        assert {question["kind"] for question in line["questions"]} <= set(VQA_KINDS)
        assert all(question["answer"] for question in line["questions"])
        for thing in scene.things:
            assert thing.name in line["caption"]


def test_segment_prints_json_and_writes_lossless_masks(world: Path, tmp_path: Path) -> None:
    done = subprocessed("segment", world / "0000.png", "the largest thing", "--json", "--out", "masks", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    output = json.loads(done.stdout)
    mask = load_mask(tmp_path / output["files"]["mask"])
    np.testing.assert_array_equal(decode_rle(output["segmentation"]), mask)
    assert mask.shape == (256, 256)
    assert output["found"] == mask.any()
    assert output["area"] == mask.sum()
    assert set(output["milliseconds"]) == {"open", "read", "head", "upsample"}
    with Image.open(tmp_path / output["files"]["overlay"]) as overlay:
        assert overlay.size == (256, 256)


def test_scenes_are_added_and_never_overwritten(seglens: Run, tmp_path: Path) -> None:
    def sample(*words: object) -> tuple[int, str, str]:
        return seglens("world", "sample", "--out", tmp_path, *words)

    assert sample("--n", 2, "--seed", 7)[0] == 0
    assert sample("--n", 3, "--seed", 7)[0] == 0
    held = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert (len(held), held["scenes.jsonl"].count(b"\n")) == (4, 3)
    for words in (("--n", 2, "--seed", 7), ("--n", 3, "--seed", 8), ("--n", 3, "--seed", 7, "--split", "train")):
        one_line(sample(*words), "lists 3 scenes of split test and seed 7", "choose another place")
    (tmp_path / "scenes.jsonl").unlink()
    one_line(sample("--n", 1, "--seed", 8), "0000.png' is there already")
    assert (tmp_path / "0000.png").read_bytes() == held["0000.png"]
    assert sample("--n", 1, "--seed", 8, "--overwrite")[0] == 0
    assert (tmp_path / "0000.png").read_bytes() != held["0000.png"]


def test_segment_several_queries(seglens: Run, world: Path, tmp_path: Path) -> None:
    queries = ("the cat", "the cat!", "the leftmost thing")
    code, out, err = seglens("segment", world / "0001.png", *queries, "--json", "--out", tmp_path)
    output = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert [one["query"] for one in output] == list(queries)
    assert len({path for one in output for path in one["files"].values()}) == 6  # none overwrites another
    code, out, _ = seglens("segment", world / "0001.png", *queries, "--out", tmp_path)
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == list(queries)


def test_ask(seglens: Run, world: Path) -> None:
    code, out, err = seglens("ask", world / "0000.png", "how many things are there?")
    assert (code, err, out.count("\n")) == (0, "", 1)
    code, output, _ = seglens("ask", world / "0000.png", "how many things are there?", "--json")
    assert code == 0
    assert json.loads(output)["answer"] == out.strip()


def test_eval(seglens: Run, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    code, out, err = seglens("eval", "--data", "world:n=2,seed=3,queries=3", "--json", "--records", records)
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["queries"] == len(records.read_text().splitlines()) == 6
    assert report["vqa"]["questions"] > 0
    assert 0 <= report["sam"]["one point"] <= 1
    code, out, _ = seglens("eval", "--data", "world:n=1,seed=3,queries=2")
    assert code == 0
    assert "all with a target" in out
    assert "presence:" in out


def small(**settings: int) -> list[str]:
    """Settings of a head and a training that take no time."""
    settings |= {"descriptor_width": 16, "encoder_width": 16, "micro": 1}
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


def test_train_then_segment(seglens: Run, world: Path, tmp_path: Path) -> None:
    command = (
        "train",
        "--backbone",
        WEIGHTS / "mllm",
        "--decoder",
        WEIGHTS / "sam",
        "--out",
        tmp_path,
        "--data",
        "world:n=2,split=train,queries=2",
        *small(steps=2, images=2),
    )
    code, out, _ = seglens(*command)
    assert (code, out.strip()) == (0, str(tmp_path / "head"))
    assert json.loads((tmp_path / "head" / "config.json").read_text())["trained"]["training"]["steps"] == 2
    arguments = ("segment", world / "0000.png", "cat", "--model", tmp_path / "head", "--out", tmp_path / "o")
    code, out, err = seglens(*arguments)
    assert (code, err) == (0, "")
    assert out.startswith("cat: ")
    assert "(presence " in out
    code, _, err = seglens(*command, "--preset", "paper")
    assert code == 2
    assert "other settings" in err
    code, _, err = seglens(*command, "--preset", "papers")
    assert code == 2
    assert "did you mean 'paper'" in err
    one_line(seglens(*command, "--data", "world:n=2"), "kept for tests", "add split=train")


def test_the_output_of_a_head_without_presence_omits_it(seglens: Run, world: Path, tmp_path: Path) -> None:
    code, _, _ = seglens(
        "train",
        "--backbone",
        WEIGHTS / "mllm",
        "--decoder",
        WEIGHTS / "sam",
        "--out",
        tmp_path,
        "--data",
        "world:n=1,split=train,queries=1",
        "--preset",
        "paper",
        *small(steps=1, images=1),
    )
    assert code == 0
    arguments = ("segment", world / "0000.png", "cat", "--model", tmp_path / "head", "--out", tmp_path / "o")
    code, out, _ = seglens(*arguments)
    assert code == 0
    assert "presence" not in out
    code, out, _ = seglens(*arguments, "--json")
    assert json.loads(out)["presence"] is None


@pytest.mark.slow
def test_a_hub_id_is_remembered_with_its_commit(plain: Path, tmp_path: Path) -> None:
    """From a cache as the hub's client leaves it, without network: the head names the commit; another is refused."""
    for part in ("mllm", "sam"):
        for commit in ("a" * 40, "b" * 40):
            shutil.copytree(plain / part, tmp_path / "hub" / f"models--org--{part}" / "snapshots" / commit)
        (tmp_path / "hub" / f"models--org--{part}" / "refs").mkdir()

    def train(commit: str) -> subprocess.CompletedProcess[str]:
        for refs in (tmp_path / "hub").glob("*/refs"):
            (refs / "main").write_text(commit)
        offline = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
        command = (
            "train",
            "--backbone",
            "org/mllm",
            "--decoder",
            "org/sam",
            "--data",
            "world:n=1,split=train,queries=1",
            "--out",
            "run",
            *small(steps=1, images=1),
        )
        return subprocessed(*command, cwd=tmp_path, **offline)

    done = train("a" * 40)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "run" / "head" / "config.json").read_text())
    assert written["backbone"] == {"name": "org/mllm", "revision": "a" * 40}
    assert written["decoder"] == {"name": "org/sam", "revision": "a" * 40}
    other = train("b" * 40)
    one_line((other.returncode, other.stdout, other.stderr), "backbone.revision is", "decoder.revision is")


def test_doctor(seglens: Run) -> None:
    code, out, _ = seglens("doctor", "--json")
    report = json.loads(out)
    assert [check["name"] for check in report["checks"]] == [
        "versions",
        "tested versions",
        "devices",
        "embedded weights",
        "self-test",
    ]
    assert all(check["ok"] for check in report["checks"]), report
    assert (code, report["ok"]) == (0, True)


@pytest.mark.parametrize(
    "model", [(), ("--backbone", "embedded/mllm", "--decoder", "embedded/sam")], ids=["head", "parts"]
)
def test_demo(seglens: Run, tmp_path: Path, model: Sequence[str]) -> None:
    code, out, err = seglens("demo", "--out", tmp_path, *model)
    assert (code, err) == (0, "")
    assert str(tmp_path) in out
    written = sorted(p.name for p in tmp_path.glob("*.png"))
    assert {"demo.png", "scene.png"} <= set(written)
    for kind in ("name", "part", "reasoning", "absent"):
        assert sum(name.startswith(f"{kind}_") for name in written) == 2


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("segment",),
        ("ask",),
        ("eval",),
        ("train",),
        ("probe",),
        ("doctor",),
        ("demo",),
        ("page",),
        ("world",),
        ("world", "sample"),
        ("embedded",),
        ("embedded", "build"),
        ("embedded", "ablate"),
        ("embedded", "table"),
        ("embedded", "unpack"),
    ],
    ids=" ".join,
)
def test_help(seglens: Run, command: Sequence[str]) -> None:
    code, out, err = seglens(*command, "--help")
    assert (code, err) == (0, "")
    assert "Usage" in out


# ---------------------------------------------------------------- errors


def one_line(result: tuple[int, str, str], *expected: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("seglens: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for text in expected:
        assert text in err


def _bomb() -> bytes:
    """A PNG whose header promises 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    output = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(output)


def test_a_bad_image(seglens: Run, world: Path, tmp_path: Path) -> None:
    whole = (world / "0000.png").read_bytes()
    bad = {"cut.png": whole[:2000], "text.png": b"not an image", "empty.png": b"", "bomb.png": _bomb()}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    for command in ("segment", "ask"):
        one_line(seglens(command, tmp_path / "none.png", "cat"), "none.png", "does not exist")
        one_line(seglens(command, tmp_path / "cut.png", "cat"), "cut short or damaged")
        one_line(seglens(command, tmp_path / "text.png", "cat"), "is not an image")
        one_line(seglens(command, tmp_path / "empty.png", "cat"), "empty.png")
        one_line(seglens(command, tmp_path / "bomb.png", "cat"), "too large", "178956970")
    one_line(seglens("ask", tmp_path, "cat"), "is a folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(bad)


def test_a_bad_query(seglens: Run, world: Path, tmp_path: Path) -> None:
    for command, what in {"segment": "query", "refine": "query", "ask": "question"}.items():
        one_line(seglens(command, world / "0000.png", ""), f"got an empty {what}")
        one_line(seglens(command, world / "0000.png", "cat " * 5000), "tokens", "shorten it")
    one_line(seglens("segment", world / "0000.png", "cat", " ", "--out", tmp_path / "o"), "got an empty query")
    assert not (tmp_path / "o").exists()


def test_a_bad_model(seglens: Run, world: Path, tmp_path: Path) -> None:
    picture = world / "0000.png"
    one_line(seglens("segment", picture, "cat", "--model", "nosuch"), "'nosuch'", "need 'embedded'")
    one_line(seglens("segment", picture, "cat", "--model", tmp_path), "holds no config.json")
    shutil.copytree(WEIGHTS / "lens", tmp_path / "head")
    one_line(seglens("segment", picture, "cat", "--model", tmp_path / "head"), "the frozen part '../mllm' is needed")
    for part in ("mllm", "sam"):
        (tmp_path / part).symlink_to(WEIGHTS / part)
    weights = tmp_path / "head" / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    one_line(seglens("segment", picture, "cat", "--model", tmp_path / "head"), "damaged or cut short")
    one_line(seglens("ask", picture, "cat", "--device", "cuda:99"), "cuda:99", "cannot be used here")


def test_bad_data(seglens: Run, tmp_path: Path) -> None:
    one_line(seglens("eval", "--data", "wurld:n=2"), "did you mean 'world'")
    one_line(seglens("eval", "--data", "world:sed=2"), "did you mean 'seed'")
    one_line(seglens("world", "sample", "--n", 0, "--out", tmp_path), "need at least 1 scene")
    one_line(seglens("world", "sample", "--split", "dev", "--out", tmp_path), "choose from train, test")
    one_line(seglens("world", "sample", "--seed", -1, "--out", tmp_path), "seed")
    one_line(seglens("embedded", "build", "--stage", "visoin", "--out", tmp_path), "no stage 'visoin'")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(seglens: Run, world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    one_line(seglens("segment", world / "0000.png", "cat", "--out", tmp_path / "file"), "file", "check the path")
    one_line(seglens("world", "sample", "--n", 1, "--out", tmp_path / "file" / "x"), "file", "check the path")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_at_least_one_job_is_needed(seglens: Run, tmp_path: Path) -> None:
    for command in ("build", "ablate", "table"):
        for jobs in (0, -1):
            code, out, err = seglens("embedded", command, "--jobs", jobs, "--out", tmp_path)
            assert (code, out) == (2, "")
            assert "--jobs" in err
    assert not list(tmp_path.iterdir())


def test_a_failure_during_the_work_is_one_line(seglens: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> tuple[int, str, str]:
        def failing(*_: object) -> None:
            raise error

        monkeypatch.setattr("seglens.embedded.build.build", failing)
        return seglens("embedded", "build", "--out", tmp_path)

    one_line(fail(StageError("stage 'sam' failed; the same command resumes it")), "stage 'sam' failed")
    no_memory = "there is not enough memory (", "; use smaller pictures", "--load-in 8bit", "another --device"
    one_line(fail(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 MiB")), *no_memory, "20.00 MiB")
    one_line(fail(MemoryError()), *no_memory)
    one_line(fail(OSError(errno.ENOMEM, "Cannot allocate memory")), *no_memory)
    cpu = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: {}: you tried to allocate 4400000000 bytes."
    one_line(fail(RuntimeError(cpu.format("not enough memory"))), *no_memory, "4,400.0 MB more")
    one_line(fail(RuntimeError(cpu.format("can't allocate memory"))), *no_memory, "4,400.0 MB more")
    damaged = ValueError("the weights cannot be read; download them again")
    damaged.__cause__ = RuntimeError("unable to mmap 5 bytes from file: Cannot allocate memory (12)")
    one_line(fail(damaged), *no_memory)
    panic = type("PanicException", (BaseException,), {})
    one_line(fail(panic("PyObject pointer is null")), *no_memory)
    with pytest.raises(panic, match="a mistake in it"):
        fail(panic("a mistake in it"))
    full = fail(OSError(errno.ENOSPC, "No space left on device", "/disk/a.png"))
    one_line(full, "the disk is full ('/disk/a.png'): No space left on device; make room or give another folder")
    with pytest.raises(RuntimeError, match="shapes differ"):  # a mistake of ours is not hidden
        fail(RuntimeError("shapes differ"))


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    """As in `seglens ... | head`: nothing on standard error, which the shell shows."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [SEGLENS, "route", "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_missing_memory_is_one_line(tmp_path: Path) -> None:
    """What is missing may already be missed while packages are imported, and by theirs when the process ends."""
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    words = f"ulimit -v 700000 && exec {SEGLENS} segment a.png cat"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    one_line((done.returncode, done.stdout, done.stderr), "there is not enough memory")


def test_an_error_of_the_console_script_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    done = subprocessed("segment", "text.png", "cat", cwd=tmp_path)
    one_line((done.returncode, done.stdout, done.stderr), "'text.png' is not an image")
    assert [p.name for p in tmp_path.iterdir()] == ["text.png"]


def test_doctor_finds_the_embedded_mllms(seglens: Run) -> None:
    """By the names that `--backbone` takes; another name of the package is refused at once, without a hub."""
    code, out, _ = seglens("doctor", "--mllm", "embedded/mllm", "--json")
    assert code == 0
    assert json.loads(out)["family"] == "llava"
    code, _, err = seglens("doctor", "--mllm", "embedded")
    assert code != 0
    assert "there is no MLLM or mask decoder of the package 'embedded'; choose from embedded/mllm" in " ".join(
        err.split()
    )


def test_a_conversion_names_a_missing_checkpoint_first(seglens: Run, tmp_path: Path) -> None:
    for what in ("lisa", "internvl"):
        code, _, err = seglens("convert", what, tmp_path / "nope", tmp_path / "out")
        assert code != 0
        assert f"there is no folder {tmp_path / 'nope'}" in err.replace("\n", "")
