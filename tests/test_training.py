"""The loop learns, resumes exactly, and touches nothing but the head."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seglens.backbones import Backbone
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder
from seglens.features import collate, extract
from seglens.methods import Lens
from seglens.segmenter import Segmenter
from seglens.training import TrainConfig, fit
from train_run import LESSONS, LONG, SMALL, fresh, head_config, lessons, train

SHORT = replace(LONG, steps=4, save_every=2)
SCRIPT = Path(__file__).with_name("train_run.py")


@pytest.fixture(scope="module")
def files(llava: Path, sam: Path) -> tuple[str, str]:
    return str(llava), str(sam)


@pytest.fixture(scope="module")
def straight(files: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Lens, Path]:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("straight")
    return train(*files, str(out)), out


def run(files: tuple[str, str], out: Path, processes: int = 1, **settings: object) -> subprocess.Popen:
    """The same run in processes of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # with PYTHONPATH as it is
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launch, str(SCRIPT), *files, str(out), json.dumps(settings)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def killed(process: subprocess.Popen, out: Path, least: int = 1) -> int:
    """Kill the run at a random moment after some checkpoints. Returns the step that it had reached."""
    try:
        while len(list(out.glob("step_*"))) < least and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.15))
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in family:  # the launcher first: it would end its workers gently
            one.kill()
    process.communicate()
    psutil.wait_procs(family)
    assert process.returncode == -signal.SIGKILL, "it was to die on its way"
    return max(int(p.name.split("_")[1]) for p in out.glob("step_*"))


def finished(process: subprocess.Popen) -> None:
    said = process.communicate()[1]
    assert process.returncode == 0, said


def head_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "head" / "head.safetensors")


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two heads, in steps of the optimiser."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one) / LONG.lr


def loss(head: Lens, data: WorldData, backbone: Backbone, decoder: MaskDecoder) -> float:
    batch = collate([extract(sample, backbone, decoder) for sample in data])
    with torch.no_grad():
        output = head.eval()(batch.readout, batch.embedding)
        return float(sum(head.losses(output, batch.truth).values()))


def test_the_loss_falls(segmenter: Segmenter, tmp_path: Path) -> None:
    parts = segmenter.backbone, segmenter.decoder
    head = fresh(*parts)
    before = loss(head, LESSONS, *parts)
    config = replace(LONG, lr=6e-4, save_every=30)
    smooth = fit(head, lessons(*parts), config, head_config(*parts), tmp_path, quiet=True)
    assert loss(head, LESSONS, *parts) < 0.9 * before
    assert set(smooth) == {"dice", "bce", "attention", "presence"}


def test_killed_and_resumed_is_undisturbed(straight: tuple[Lens, Path], files: tuple[str, str], tmp_path: Path) -> None:
    reached = killed(run(files, tmp_path), tmp_path)
    assert 3 <= reached < LONG.steps
    resumed = train(*files, str(tmp_path))
    for (name, expected), got in zip(straight[0].state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, got), f"{name} differs after a resume from step {reached}"


def test_two_devices_and_one_go_the_same_way(files: tuple[str, str], tmp_path: Path) -> None:
    """Also when one goes on where two were killed, and when a step is cut into passes."""
    how = {"steps": 12, "images": 4, "micro": 1, "save_every": 1, "mixed_precision": "no"}
    one = train(*files, str(tmp_path / "one"), **how).state_dict()
    finished(run(files, tmp_path / "two", 2, **how))
    reached = killed(run(files, tmp_path / "mixed", 2, **how), tmp_path / "mixed")
    assert 1 <= reached < 12
    mixed = train(*files, str(tmp_path / "mixed"), **how).state_dict()
    # measured: 1.2e-4 of a step of the optimiser; sums run in another order
    assert apart(one, head_of(tmp_path / "two")) < 1e-3
    assert apart(one, mixed) < 1e-3


def test_a_step_that_cannot_be_cut() -> None:
    assert TrainConfig(images=160, micro=2).passes(8) == (10, 2)
    assert TrainConfig(images=8).passes(4) == (1, 2)
    with pytest.raises(ValueError, match="multiple of 6"):
        TrainConfig(images=8, micro=2).passes(3)


def test_a_finished_run_is_not_repeated(straight: tuple[Lens, Path], files: tuple[str, str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in straight[1].glob("step_*/*")}
    again = train(*files, str(straight[1]))
    assert {p: p.stat().st_mtime_ns for p in straight[1].glob("step_*/*")} == before
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), straight[0].parameters(), strict=True))


def test_heads_load_by_themselves(straight: tuple[Lens, Path]) -> None:
    last = Segmenter.from_pretrained(straight[1] / "head")
    assert all(torch.equal(a, b) for a, b in zip(last.method.parameters(), straight[0].parameters(), strict=True))
    best = Segmenter.from_pretrained(straight[1] / "best")
    said = json.loads((straight[1] / "best.json").read_text())
    assert best.config.trained is not None
    assert best.config.trained["validation"]["gIoU"] == said["gIoU"]
    assert 0 <= said["gIoU"] <= 1


def test_two_checkpoints_are_kept(straight: tuple[Lens, Path]) -> None:
    assert sorted(p.name for p in straight[1].glob("*step_*")) == ["step_27", "step_30"]


def test_curves_are_written(straight: tuple[Lens, Path]) -> None:
    events = EventAccumulator(str(straight[1] / "curves")).Reload()
    terms = {"dice", "bce", "attention", "presence"}
    assert set(events.Tags()["scalars"]) == {*terms, "lr", "validation/gIoU", "validation/cIoU"}
    assert [event.step for event in events.Scalars("dice")] == list(range(1, 31))
    rates = [event.value for event in events.Scalars("lr")]
    assert rates[2] == max(rates) == pytest.approx(LONG.lr)
    assert 0 < rates[-1] < 0.05 * LONG.lr


def test_weights_and_optimiser_are_fp32(straight: tuple[Lens, Path]) -> None:
    folder = straight[1] / "step_30"
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float32}
    state = torch.load(folder / "optimizer.bin", weights_only=True)["state"]
    moments = [one[key] for one in state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert moments
    assert {t.dtype for t in moments} == {torch.float32}
    assert {p.dtype for p in straight[0].parameters()} == {torch.float32}


def test_what_is_trained_runs_in_its_own_precision(
    straight: tuple[Lens, Path], backbone: Backbone, decoder: MaskDecoder
) -> None:
    """Training wraps the head in bf16 autocast; whoever goes on with it must not stay inside."""
    loaded = fresh(backbone, decoder).eval()
    loaded.load_state_dict(straight[0].state_dict())
    batch = collate([extract(LESSONS[i], backbone, decoder) for i in (0, 1)])
    with torch.no_grad():
        mine, theirs = (head(batch.readout, batch.embedding).mask_logits for head in (straight[0], loaded))
    assert not straight[0].training
    assert torch.equal(mine, theirs)


def test_only_the_head_changes(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    head = fresh(backbone, decoder)

    def copies(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in module.state_dict().items()}

    mllm, sam, before = copies(backbone.module), copies(decoder.module), copies(head)
    parts = backbone, decoder
    fit(head, lessons(*parts), SHORT, head_config(*parts), tmp_path, quiet=True)
    for frozen, module in ((mllm, backbone.module), (sam, decoder.module)):
        assert all(torch.equal(frozen[name], tensor) for name, tensor in module.state_dict().items())
        assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
    trainable = {name for name, p in head.named_parameters() if p.requires_grad}
    changed = {name for name, tensor in head.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed <= trainable
    assert {"cls", "presence.weight", "norm.weight"} <= changed
    assert any(name.startswith("layers.0") for name in changed)
    assert any(name.startswith("mask_decoder") for name in changed)
    assert not any("iou_prediction_head" in name for name in changed)


def test_another_run_s_folder_is_refused(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    parts = backbone, decoder
    made, taught = head_config(*parts), lessons(*parts)
    fit(fresh(*parts), taught, SHORT, made, tmp_path, quiet=True)
    for head, data, config, said in (
        (fresh(*parts), taught, replace(SHORT, lr=2e-3), "training"),
        (fresh(*parts, replace(SMALL, aggregate="mean")), taught, SHORT, "method"),
        (fresh(*parts), lessons(*parts, name="other"), SHORT, "data"),
    ):
        with pytest.raises(ValueError, match=rf"other settings \({said} in"):
            fit(head, data, config, made, tmp_path, quiet=True)


def test_the_rate_rises_and_falls() -> None:
    config = TrainConfig(steps=100, warmup=10)
    rates = [config.rate(step) for step in range(101)]
    assert rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == 0
    assert {replace(config, schedule="constant", warmup=0).rate(step) for step in range(101)} == {1.0}


@pytest.mark.parametrize(
    "setting", [{"steps": 0}, {"images": 0}, {"lr": -1.0}, {"save_every": 0}, {"micro": 0}, {"clip": 0.0}, {"keep": 0}]
)
def test_settings_that_cannot_be(setting: dict) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        TrainConfig(**setting)


@pytest.mark.parametrize("missing", ["accelerate", "torch.utils.tensorboard"])
def test_without_the_extra_it_says_what_to_install(
    backbone: Backbone, decoder: MaskDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    parts = backbone, decoder
    with pytest.raises(ImportError, match=r"pip install 'seglens\[train\]'") as caught:
        fit(fresh(*parts), lessons(*parts), SHORT, head_config(*parts), tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
