"""`seglens cache` on tiny models: it stores the outputs of the frozen parts, whatever process writes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import files
from PIL import Image

from command import Run, in_process
from seglens.backbones import load_backbone
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder
from seglens.features.cache import Cache

DATA = "world:n=5,seed=3,split=train,queries=3"


@pytest.fixture
def seglens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return in_process(monkeypatch, capsys, "cache")


@pytest.fixture
def parts(llava: Path, sam: Path) -> tuple[object, ...]:
    return "--data", DATA, "--backbone", llava, "--decoder", sam


def test_a_cache_holds_the_readout_of_the_frozen_parts(
    seglens: Run, parts: tuple[object, ...], llava: Path, decoder: MaskDecoder, tmp_path: Path
) -> None:
    """Bit for bit, from the tensors that the backbone and the decoder give for the same sample."""
    code, out_text, error = seglens("build", *parts, "--out", tmp_path, "--shard", 2)
    assert (code, out_text) == (0, f"{tmp_path}: wrote 3 shards, kept 0; 3 of 3 are there\n"), error
    assert "5 images, 15 questions" in error
    cache, backbone = Cache.open(tmp_path, data=DATA), load_backbone(llava, segmentation_only=True)
    assert cache.trainable
    for image, sample in enumerate(WorldData(n=5, seed=3, split="train", queries=3)):
        example = cache.example(image, (0, 1, 2))
        opened = backbone.open(sample.image)
        readout = backbone.read(opened, [target.query for target in sample.targets])
        assert torch.equal(example.prefix, readout.prefix[0])
        assert torch.equal(example.prefix_positions, readout.prefix_positions[0])
        assert torch.equal(example.image_tokens, readout.image_tokens)
        assert example.grid == readout.grid
        assert torch.equal(example.embedding.coarse, decoder.encode(sample.image, opened.frame).coarse)
        for number, (question, target) in enumerate(zip(example.questions, sample.targets, strict=True)):
            real = readout.question_mask[0, number]
            assert torch.equal(question.rows, readout.question[0, number][real])
            assert torch.equal(question.positions, readout.question_positions[0, number][real])
            assert question.present == target.present


def test_resume_and_check(seglens: Run, parts: tuple[object, ...], tmp_path: Path) -> None:
    out = tmp_path / "cache"
    assert seglens("build", *parts, "--out", out, "--shard", 2)[0] == 0
    assert seglens("check", out, "--data", DATA)[:2] == (
        0,
        f"{out}: 5 samples in 3 shards, every byte as it was written\n",
    )
    (out / "shard-00001.json").unlink()
    code, out_text, _ = seglens("check", out)
    assert code == 1
    assert "shard-00001.json is missing; run `seglens cache build --data world:n=5" in out_text
    assert json.loads(seglens("check", out, "--json")[1])["faults"] == [out_text.strip()]
    code, out_text, _ = seglens("build", *parts, "--out", out, "--shard", 2, "--json")
    report = json.loads(out_text)
    assert (report["written"], report["kept"], report["complete"]) == ([1], [0, 2], 3)
    code, out_text, _ = seglens("check", out, "--data", "world:n=5,seed=4,split=train,queries=3")
    assert (code, out_text.count("was made of other data"), out_text.count("\n")) == (1, 1, 1)


def test_the_same_models_in_another_folder_have_the_same_cache(
    seglens: Run, parts: tuple[object, ...], llava: Path, tmp_path: Path
) -> None:
    """A model is its files, not its folder; and other files make another model."""
    out, moved = tmp_path / "cache", tmp_path / "moved"
    assert seglens("build", *parts, "--out", out)[0] == 0
    shutil.copytree(llava, moved)
    assert "kept 1" in seglens("build", *parts, "--backbone", moved, "--out", out)[1]
    config = json.loads((moved / "generation_config.json").read_text())
    (moved / "generation_config.json").write_text(json.dumps(config))
    code, _, error = seglens("build", *parts, "--backbone", moved, "--out", out)
    assert code == 2
    assert "holds another cache (key.backbone.files is" in error
    code, _, error = seglens("build", *parts, "--layer", 5, "--out", out)
    assert (code, error.count("key.backbone.layer is 4, wanted 5")) == (2, 1)


def test_a_cache_is_read_as_the_preset_reads(seglens: Run, parts: tuple[object, ...], tmp_path: Path) -> None:
    """Read as the preset's training will read, and resumed by a command with the preset."""
    out = tmp_path / "cache"
    assert seglens("build", *parts, "--out", out, "--preset", "authors", "--set", "padding=mean")[0] == 0
    cache = Cache.open(out, data=DATA)
    assert cache.manifest.key["backbone"]["frame"] == "letterbox-mean-sam-processor"
    assert cache.manifest.key["truth"] == {"floors": 128}
    assert cache.example(0, (0, 1)).questions[0].cells.shape == (128, 128)
    assert "--preset authors" in cache.manifest.command
    assert cache.manifest.command.endswith("--set padding=mean")
    code, _, error = seglens("build", *parts, "--out", out)
    assert code == 2
    assert 'key.backbone.frame is "letterbox-mean-sam-processor", wanted "pad-mean"' in error
    assert "no setting 'lie'" in seglens("build", *parts, "--out", out, "--set", "lie=squash")[2]


def test_an_estimate_is_printed_and_writes_nothing(seglens: Run, parts: tuple[object, ...], tmp_path: Path) -> None:
    code, out_text, _ = seglens("estimate", *parts, "--out", tmp_path / "cache", "--json")
    estimated = json.loads(out_text)
    assert (code, estimated["images"], estimated["questions"], estimated["stored"]) == (0, 5, 15, 0)
    assert "5 images, 15 questions" in seglens("estimate", *parts)[1]
    assert json.loads(seglens("estimate", *parts, "--dtype", "int8", "--json")[1])["bytes"] < estimated["bytes"]
    assert files(tmp_path) == {}


def test_a_disk_without_room_is_refused(seglens: Run, parts: tuple[object, ...], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        code, _, error = seglens("build", *parts, "--out", disk / "cache")
        assert (code, error.count("no room for the cache")) == (2, 1)
        assert files(disk) == {}
        code, _, error = seglens("build", *parts, "--out", disk / "cache", "--any-room", "--shard", 1)
        assert (code, error.count("No space left on device")) == (2, 1)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_is_left_out_is_counted_and_named(seglens: Run, parts: tuple[object, ...], tmp_path: Path) -> None:
    """The data's own option decides, and the finished cache reports it again."""
    lines = []
    for n in range(6):
        Image.fromarray(np.full((20, 30, 3), 40 * n, np.uint8)).save(tmp_path / f"{n}.png")
        polygon = [[2, 2, 20, 2, 20, 15]] if n != 3 else [[2, 2]]
        lines.append(json.dumps({"image": f"{n}.png", "text": "the box", "polygons": polygon}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    for n in (0, 2, 4):
        (tmp_path / f"{n}.png").write_bytes((tmp_path / f"{n}.png").read_bytes()[:40])
    spec, out = f"jsonl:file={tmp_path / 'data.jsonl'}", tmp_path / "cache"
    assert seglens("build", *parts, "--data", spec, "--out", out)[0] == 2
    assert not out.exists()
    for _ in range(2):
        code, out_text, error = seglens("build", *parts, "--data", f"{spec},bad=skip", "--out", out, "--json")
        assert code == 0, error
        left_out = json.loads(out_text)["left_out"]
        assert len(left_out) == 4
        assert f"left out: 4 bad records: {left_out[0]}; {left_out[1]}; {left_out[2]}; and 1 more\n" in error
        assert [sum(f"{n}.png" in one for one in left_out) for n in (0, 2, 4)] == [1, 1, 1], left_out
    assert seglens("build", *parts, "--data", spec, "--out", out, "--bad", "skip")[0] == 2


def test_settings_that_make_no_cache(seglens: Run, parts: tuple[object, ...], tmp_path: Path) -> None:
    code, _, error = seglens("build", *parts, "--dtype", "fp8", "--out", tmp_path)
    assert (code, error.strip()) == (2, "seglens: a cache got dtype='fp8'; choose from auto, bf16, fp16, int8")
    assert "holds no feature cache" in seglens("check", tmp_path)[2]


@pytest.mark.slow  # torchrun and two processes that load models
def test_torchrun(seglens: Run, parts: tuple[object, ...], tmp_path: Path) -> None:
    """Two processes share the shards, and write the bytes of one."""
    program = tmp_path / "program.py"
    program.write_text("from seglens.cli import main\n\nmain()\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", program]
    command = [*launch, "cache", "build", *parts, "--out", tmp_path / "two", "--shard", 1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(line.split(";")[0] for line in done.stdout.splitlines()) == [
        f"{tmp_path / 'two'}: wrote {count} shards, kept 0" for count in (2, 3)
    ]
    assert seglens("build", *parts, "--out", tmp_path / "one", "--shard", 1)[0] == 0
    assert files(tmp_path / "two") == files(tmp_path / "one")
