"""The loop learns, resumes exactly, and touches nothing but the head."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seglens.backbones import Backbone, load_backbone
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder, load_decoder
from seglens.features import FeatureStore, collect
from seglens.methods import Lens, LensConfig, build_lens
from seglens.segmenter import Segmenter
from seglens.training import TrainConfig, fit, order, prepare

SMALL = replace(LensConfig(), descriptor_width=16, encoder_width=16)
LONG = TrainConfig(steps=30, images=3, lr=1e-3, warmup=3, save_every=3, log_every=1, seed=4)
SHORT = replace(LONG, steps=4, save_every=2)


def fresh(backbone: Backbone, decoder: MaskDecoder, config: LensConfig = SMALL) -> Lens:
    torch.manual_seed(1)
    return build_lens(config, backbone, decoder)


def train(llava: str, sam: str, features: str, out: str) -> Lens:
    """One run from files alone: what the killed process and the one that goes on both call."""
    torch.set_num_threads(1)
    head = fresh(load_backbone(llava, attn_implementation="eager"), load_decoder(sam))
    fit(head, FeatureStore.load(Path(features)), LONG, Path(out), quiet=True)
    return head


@pytest.fixture(scope="module")
def files(llava: Path, sam: Path, store: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    path = tmp_path_factory.mktemp("store") / "features.safetensors"
    store.save(path)
    return str(llava), str(sam), str(path)


@pytest.fixture(scope="module")
def straight(files: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Lens, Path]:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("straight")
    return train(*files, str(out)), out


def loss(head: Lens, store: FeatureStore) -> float:
    batch = store.batch(range(len(store)))
    with torch.no_grad():
        output = head.eval()(batch.readout, batch.embedding)
        return float(sum(head.losses(output, batch.masks, batch.cells, batch.present).values()))


def test_the_loss_falls(segmenter: Segmenter, lessons: WorldData, tmp_path: Path) -> None:
    parts = segmenter.backbone, segmenter.decoder
    store, head = collect(lessons, *parts), fresh(*parts)
    before = loss(head, store)
    smooth = fit(head, store, replace(LONG, lr=6e-4, save_every=30), tmp_path, quiet=True)
    assert loss(head, store) < 0.9 * before
    assert set(smooth) == {"dice", "bce", "attention", "presence"}


def test_killed_and_resumed_is_undisturbed(straight: tuple[Lens, Path], files: tuple[str, ...], tmp_path: Path) -> None:
    code = f"import test_training; test_training.train(*{files!r}, {str(tmp_path)!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    try:
        while not any(tmp_path.glob("step_*")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.15))
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was to die on its way"
    reached = max(int(p.name.split("_")[1]) for p in tmp_path.glob("step_*"))
    assert 3 <= reached < LONG.steps
    resumed = train(*files, str(tmp_path))
    for (name, expected), got in zip(straight[0].state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, got), f"{name} differs after a resume from step {reached}"


def test_a_finished_run_is_not_repeated(straight: tuple[Lens, Path], files: tuple[str, ...]) -> None:
    before = {p: p.stat().st_mtime_ns for p in straight[1].glob("step_*/*")}
    again = train(*files, str(straight[1]))
    assert {p: p.stat().st_mtime_ns for p in straight[1].glob("step_*/*")} == before
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), straight[0].parameters(), strict=True))


def test_two_checkpoints_are_kept(straight: tuple[Lens, Path]) -> None:
    assert sorted(p.name for p in straight[1].glob("*step_*")) == ["step_27", "step_30"]


def test_curves_are_written(straight: tuple[Lens, Path]) -> None:
    events = EventAccumulator(str(straight[1] / "curves")).Reload()
    assert set(events.Tags()["scalars"]) == {"dice", "bce", "attention", "presence", "lr"}
    assert [event.step for event in events.Scalars("dice")] == list(range(1, 31))
    rates = [event.value for event in events.Scalars("lr")]
    assert rates[1] == pytest.approx(LONG.lr)
    assert rates[-1] == 0


def test_weights_and_optimiser_are_fp32(straight: tuple[Lens, Path]) -> None:
    folder = straight[1] / "step_30"
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float32}
    state = torch.load(folder / "optimizer.bin", weights_only=True)["state"]
    moments = [one[key] for one in state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert moments
    assert {t.dtype for t in moments} == {torch.float32}
    assert {p.dtype for p in straight[0].parameters()} == {torch.float32}


def test_what_is_trained_runs_in_its_own_precision(
    straight: tuple[Lens, Path], backbone: Backbone, decoder: MaskDecoder, store: FeatureStore
) -> None:
    """Training wraps the head in bf16 autocast; whoever goes on with it must not stay inside."""
    loaded = fresh(backbone, decoder).eval()
    loaded.load_state_dict(straight[0].state_dict())
    batch = store.batch([0, 1])
    with torch.no_grad():
        mine, theirs = (head(batch.readout, batch.embedding).mask_logits for head in (straight[0], loaded))
    assert not straight[0].training
    assert torch.equal(mine, theirs)


def test_only_the_head_changes(backbone: Backbone, decoder: MaskDecoder, store: FeatureStore, tmp_path: Path) -> None:
    head = fresh(backbone, decoder)

    def copies(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in module.state_dict().items()}

    mllm, sam, before = copies(backbone.module), copies(decoder.module), copies(head)
    fit(head, store, SHORT, tmp_path, quiet=True)
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


def test_another_run_s_folder_is_refused(
    backbone: Backbone, decoder: MaskDecoder, store: FeatureStore, tmp_path: Path
) -> None:
    fit(fresh(backbone, decoder), store, SHORT, tmp_path, quiet=True)
    other_head = fresh(backbone, decoder, replace(SMALL, aggregate="mean"))
    other_data = replace(store, cells=255 - store.cells)
    for head, data, config, said in (
        (fresh(backbone, decoder), store, replace(SHORT, lr=2e-3), "training"),
        (other_head, store, SHORT, "method"),
        (fresh(backbone, decoder), other_data, SHORT, "data"),
    ):
        with pytest.raises(ValueError, match=rf"other settings \({said} in"):
            fit(head, data, config, tmp_path, quiet=True)


def test_prepared_features_belong_to_their_data(llava: Path, sam: Path, tmp_path: Path) -> None:
    first = prepare(str(llava), str(sam), "world:n=2,split=train,queries=2", SMALL, None, tmp_path, seed=1)
    again = prepare(str(llava), str(sam), "world:n=2,split=train,queries=2", SMALL, None, tmp_path, seed=1)
    assert first.layer == again.layer == round(14 / 32 * 8)
    assert torch.equal(first.store.prefix, again.store.prefix)
    assert all(torch.equal(a, b) for a, b in zip(first.head.parameters(), again.head.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"other settings \(data in features\.json\)"):
        prepare(str(llava), str(sam), "world:n=2,split=train,queries=3", SMALL, None, tmp_path)


def test_prepared_features_belong_to_their_weights(llava: Path, sam: Path, tmp_path: Path) -> None:
    parts = {"backbone": llava, "decoder": sam}
    mine = {part: shutil.copytree(folder, tmp_path / part) for part, folder in parts.items()}

    def again() -> None:
        prepare(*map(str, mine.values()), "world:n=1,split=train,queries=1", SMALL, None, tmp_path / "out")

    again()
    for part, folder in mine.items():
        file = folder / "model.safetensors"
        before, state = file.read_bytes(), load_file(file)
        save_file({name: tensor + 0.01 for name, tensor in state.items()}, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=rf"other settings \({part} weights in features\.json\)"):
            again()
        file.write_bytes(before)
    again()


def test_test_data_trains_nothing(llava: Path, sam: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'world:n=2' is kept for tests.*add split=train") as caught:
        prepare(str(llava), str(sam), "world:n=2", SMALL, None, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(
    backbone: Backbone, decoder: MaskDecoder, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(ValueError, match="2 processes; this version trains in one"):
        fit(fresh(backbone, decoder), store, SHORT, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "train.json").exists()


@pytest.mark.parametrize(("images", "total"), [(1, 5), (2, 6), (4, 6), (6, 6), (8, 6)])
def test_an_epoch_shows_every_image_once(images: int, total: int) -> None:
    per_epoch = -(-total // images)
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        shown = [index for step in steps for index in order(7, step, images, total)]
        assert sorted(shown) == list(range(total))
    assert order(7, 0, 3, 6) + order(7, 1, 3, 6) != order(7, 2, 3, 6) + order(7, 3, 3, 6)
    assert order(7, 5, 2, 6) == order(7, 5, 2, 6)


def test_the_rate_rises_and_falls() -> None:
    config = TrainConfig(steps=100, warmup=10)
    rates = [config.rate(step) for step in range(101)]
    assert rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == 0


@pytest.mark.parametrize("setting", [{"steps": 0}, {"images": 0}, {"lr": -1.0}, {"warmup": 0}, {"save_every": 0}])
def test_settings_that_cannot_be(setting: dict) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        TrainConfig(**setting)


@pytest.mark.parametrize("missing", ["accelerate", "torch.utils.tensorboard"])
def test_without_the_extra_it_says_what_to_install(
    backbone: Backbone, decoder: MaskDecoder, store: FeatureStore, llava: Path, sam: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, missing: str,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'seglens\[train\]'") as caught:
        fit(fresh(backbone, decoder), store, SHORT, tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(ImportError, match=r"pip install 'seglens\[train\]'"):
        prepare(str(llava), str(sam), "world:n=2,split=train", SMALL, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()
