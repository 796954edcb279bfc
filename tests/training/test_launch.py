"""Many processes: shards, the command under torchrun, and which process prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import forked
from forked import Started
from seglens.cli import app
from seglens.training.launch import accelerator_for, arrange
from sharded_run import train_sharded
from train_run import apart, finished, head_of, killed, run, train

HOW = {"steps": 12, "images": 4, "micro": 1, "save_every": 2, "mixed_precision": "no", "log_every": 6}
GROUPS = {"weight_decay": 0.5, "decay": "weights"}  # parameters in two groups, which each way must keep apart


@pytest.fixture(scope="module")
def files(llava: Path, sam: Path) -> tuple[str, str]:
    return str(llava), str(sam)


@pytest.mark.slow
def test_a_sharded_run_trains_like_a_whole_one(files: tuple[str, str], tmp_path: Path) -> None:
    """FSDP 2 on two processes, killed on its way: it goes on as it was, and as one process without shards."""
    one, two, mixed = (tmp_path / name for name in ("one", "two", "mixed"))
    whole = train(*files, str(one), **HOW, **GROUPS).state_dict()
    assert killed(run(files, two, 2, train_sharded, **HOW, **GROUPS), two, 2) < HOW["steps"]
    shutil.copytree(two, mixed)
    finished(run(files, two, 2, train_sharded, **HOW, **GROUPS))
    # measured: 1.2e-4 of a step of the optimiser; sums run in another order
    assert apart(whole, head_of(two)) < 1e-3
    assert apart(whole, train(*files, str(mixed), **HOW, **GROUPS).state_dict()) < 1e-3
    assert apart(load_file(one / "best/head.safetensors"), load_file(two / "best/head.safetensors")) < 1e-3
    moments, sharded = (torch.load(out / "step_12/optimizer.bin", weights_only=True)["state"] for out in (one, two))
    assert moments.keys() == sharded.keys()
    for name, expected in moments.items():  # these have the gradient's scale, which Adam's own step would hide
        # measured: 1.3e-8 of moments up to 0.05
        torch.testing.assert_close(sharded[name]["exp_avg"], expected["exp_avg"], rtol=0, atol=2e-7)


def test_fsdp_1_is_refused(tmp_path: Path) -> None:
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils import DistributedType

    accelerator = accelerator_for(torch.device("cpu"), (), tmp_path)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=1)
    with pytest.raises(ValueError, match="asks for FSDP version 1; give fsdp_version: 2"):
        arrange(accelerator, 1, 1, None)


def command(files: tuple[str, str], out: Path, *more: str) -> list[str]:
    settings = (
        "steps=8",
        "images=4",
        "micro=1",
        "save_every=1",
        "mixed_precision=no",
        "encoder_width=16",
        "descriptor_width=16",
        "lr=1e-3",
        "warmup=2",
    )
    backbone, decoder = files
    return [
        "train",
        "--data",
        "world:n=150,seed=3,split=train,queries=3",
        "--out",
        str(out),
        "--backbone",
        backbone,
        "--decoder",
        decoder,
        *(word for one in settings for word in ("--set", one)),
        *more,
    ]


@pytest.mark.slow
def test_the_command_on_two_processes(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while the cache is built and while it trains; finished by one process, and by two."""
    two, one, whole = (tmp_path / name for name in ("two", "one", "whole"))
    cache = two / "features" / "world_n_150_seed_3_split_train_queries_3"
    assert killed(Started(forked.command, *command(files, two), processes=2), cache, files="shard*.json") == 0
    assert len(list(cache.glob("shard*.json"))) < 3
    assert 1 <= killed(Started(forked.command, *command(files, two), processes=2), two) < 8
    shutil.copytree(two, one)
    for out in (one, whole):
        app(command(files, out), standalone_mode=False)
    assert capsys.readouterr().out == f"{one / 'head'}\n{whole / 'head'}\n"
    assert finished(Started(forked.command, *command(files, two), processes=2)) == f"{two / 'head'}\n"  # printed once
    # measured: 3.0e-5 of a step of the optimiser
    assert apart(head_of(whole), head_of(one)) < 1e-3
    assert apart(head_of(whole), head_of(two)) < 1e-3
    contents = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert contents == {path.name: path.read_bytes() for path in (whole / "features").glob("*/*")}


@pytest.mark.slow
@pytest.mark.parametrize("shards", [True, False])
def test_an_error_is_printed_once(files: tuple[str, str], tmp_path: Path, shards: bool) -> None:
    """One that every process meets, and one that only the first does while the others wait for it. accelerate itself
    would go on with whole copies on a CPU, and report nothing."""
    (tmp_path / "train.json").write_text("{}")
    environment = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} if shards else {}
    message = (
        "asks for FSDP, and accelerate shards on GPUs, not on 'cpu'"
        if shards
        else "holds no settings of a training run"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "seglens"]
    done = subprocess.run(
        [*launch, *command(files, tmp_path, "--live")],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith(("seglens:", "[rank"))]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]


@pytest.mark.slow
def test_curves_on_wandb(files: tuple[str, str], tmp_path: Path) -> None:
    """Offline, as on a cluster; the run goes on under its name."""
    pytest.importorskip("wandb", reason="needs pip install 'seglens[wandb]'")
    words = command(files, tmp_path, "--set", "trackers=tensorboard+wandb", "--set", "log_every=1", "--live")
    finished(Started(forked.command, *words, WANDB_MODE="offline"))
    (run,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = run.read_bytes()
    assert (tmp_path / "wandb.id").read_text() in run.name
    for name in (b"attention", b"presence", b"training/lr", b"method/drop", b"fingerprint"):
        assert name in content
    assert list(tmp_path.glob("curves/events*"))
    assert os.environ.get("WANDB_MODE") != "offline"
