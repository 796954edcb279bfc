"""The loop learns, resumes exactly, and touches nothing but the head."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seglens.backbones import Backbone
from seglens.core.locks import LOCK, InUseError, held
from seglens.core.types import Embedding
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder
from seglens.features.examples import collate
from seglens.features.frozen import Features, extract
from seglens.inference.segmenter import Segmenter
from seglens.methods import Lens
from seglens.training.checkpoint import NOTE, RunError, read_note
from seglens.training.config import TrainConfig
from seglens.training.example_stream import SampledStream
from seglens.training.run_folder import validation_scores
from seglens.training.trainer import Terminated, fit
from train_run import DATA, LONG, SMALL, apart, examples, finished, fresh, head_config, head_of, killed, run, train

SHORT = replace(LONG, steps=4, save_every=2)


@pytest.fixture(scope="module")
def files(llava: Path, sam: Path) -> tuple[str, str]:
    return str(llava), str(sam)


@pytest.fixture(scope="module")
def straight(files: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Lens, Path]:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("straight")
    return train(*files, str(out)), out


def loss(head: Lens, data: WorldData, backbone: Backbone, decoder: MaskDecoder) -> float:
    batch = collate([extract(sample, backbone, decoder) for sample in data])
    with torch.no_grad():
        output = head.eval()(batch.inputs, batch.embedding)
        return float(sum(head.losses(output, batch.truth).values()))


@pytest.mark.slow
def test_the_loss_falls(segmenter: Segmenter, tmp_path: Path) -> None:
    parts = segmenter.backbone, segmenter.decoder
    head = fresh(*parts)
    before = loss(head, DATA, *parts)
    config = replace(LONG, lr=6e-4, save_every=30)
    smooth = fit(head, examples(*parts), config, head_config(*parts), tmp_path, quiet=True)
    assert loss(head, DATA, *parts) < 0.9 * before
    assert set(smooth) == {"dice", "bce", "attention", "presence"}


@pytest.mark.slow
def test_a_killed_and_resumed_run_has_the_weights_of_an_undisturbed_one(
    straight: tuple[Lens, Path], files: tuple[str, str], tmp_path: Path
) -> None:
    reached = killed(run(files, tmp_path), tmp_path)
    assert 3 <= reached < LONG.steps
    resumed = train(*files, str(tmp_path))
    for (name, expected), got in zip(straight[0].state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(expected, got), f"{name} differs after a resume from step {reached}"


def test_a_resumed_run_keeps_its_groups(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    """What decays and what does not, and each group's rate: a resumed run equals an undisturbed one."""
    parts, config = (backbone, decoder), replace(SHORT, weight_decay=5.0, decay="weights")

    def trained(out: Path, **how: object) -> dict[str, torch.Tensor]:
        head = fresh(*parts)
        fit(head, examples(*parts), replace(config, **how), head_config(*parts), out, quiet=True)
        return head.state_dict()

    whole = trained(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "step_2", tmp_path / "cut" / "step_2")
    shutil.copy(tmp_path / "whole" / "train.json", tmp_path / "cut")
    resumed = trained(tmp_path / "cut")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    groups = torch.load(tmp_path / "cut" / "step_4" / "optimizer.bin", weights_only=True)["param_groups"]
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 5.0]
    assert not any(name.endswith("bias") for group in groups if group["weight_decay"] for name in group["params"])
    every = trained(tmp_path / "all", decay="all")
    assert any(not torch.equal(tensor, every[name]) for name, tensor in whole.items())


@pytest.mark.slow
def test_two_devices_train_like_one(files: tuple[str, str], tmp_path: Path) -> None:
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


def test_passes_do_not_change_a_step(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    """Gradients, as the moments after one step hold them: their scale too, which Adam's own step would hide."""
    parts = backbone, decoder
    small = replace(SMALL, drop=0.0)

    def moments(passes: int, clip: float | None) -> dict[str, torch.Tensor]:
        head = fresh(*parts, small)
        for module in head.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if isinstance(module, torch.nn.MultiheadAttention):
                module.dropout = 0.0
        config = replace(SHORT, steps=1, images=4, micro=4 // passes, clip=clip, mixed_precision="no", warmup=0)
        out = tmp_path / f"{passes} {clip}"
        fit(head, examples(*parts), config, head_config(*parts, small), out, quiet=True)
        state = torch.load(out / "step_1" / "optimizer.bin", weights_only=True)["state"]
        return {name: one["exp_avg"] for name, one in state.items()}

    for clip in (None, 0.05):
        one, four = moments(1, clip), moments(4, clip)
        largest = max(float(moment.abs().max()) for moment in one.values())
        assert largest > 1e-4
        # measured: 8.8e-8 of the largest; sums run in another order
        assert apart(one, four, largest) < 1e-5
    norm = torch.stack([moment.norm() for moment in one.values()]).norm()
    assert float(norm) == pytest.approx(0.05 * (1 - SHORT.betas[0]), rel=1e-3)


@dataclass
class Interrupted:
    """The examples of a run in which something happens when one of them is asked for."""

    stream: SampledStream
    number: int
    happen: Callable[[Features], Features]

    def example(self, number: int) -> Features:
        features = self.stream.example(number)
        return self.happen(features) if number == self.number else features

    def examples(self, numbers: Iterable[int]) -> Iterator[Features]:
        return map(self.example, numbers)

    def name(self, number: int) -> str:
        return self.stream.name(number)

    def fingerprint(self) -> str:
        return self.stream.fingerprint()


def test_a_loss_that_is_not_finite_stops_the_run(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    parts = backbone, decoder

    def poison(features: Features) -> Features:
        return replace(features, embedding=Embedding(features.embedding.coarse * torch.nan))

    wrong = Interrupted(examples(*parts), 3 * 3 + 1, poison)
    with pytest.raises(RunError, match=r"step 4: the loss is no longer a number \(dice, bce\) on image \d;") as caught:
        fit(fresh(*parts), wrong, replace(SHORT, micro=1), head_config(*parts), tmp_path, quiet=True)
    assert f"on {wrong.name(10)};" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.glob("*step_*")] == ["step_2"]
    assert not (tmp_path / "head").exists()


def test_weights_that_are_not_finite_are_not_saved(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    """Here in a part that the loss does not see: a checkpoint of it would seem good."""
    parts = backbone, decoder
    head = fresh(*parts)
    name, weight = next((n, p) for n, p in head.named_parameters() if "iou_prediction_head" in n)
    weight.data[0] = torch.inf
    with pytest.raises(RunError, match=rf"weights {name} are no longer finite at step 2, which is not saved; take a"):
        fit(head, examples(*parts), SHORT, head_config(*parts), tmp_path, quiet=True)
    assert not list(tmp_path.glob("*step_*/*.json"))


def test_a_signal_to_end_saves_a_checkpoint_and_the_run_goes_on_later(
    backbone: Backbone, decoder: MaskDecoder, tmp_path: Path
) -> None:
    """SIGTERM, as schedulers send it: a checkpoint out of turn, and the curves go on smoothly too."""
    parts = backbone, decoder
    config = replace(SHORT, steps=8, save_every=8)

    def end(features: Features) -> Features:
        os.kill(os.getpid(), signal.SIGTERM)
        return features

    before = signal.getsignal(signal.SIGTERM)
    ended = Interrupted(examples(*parts), 4 * config.images, end)
    with pytest.raises(Terminated) as caught:
        fit(fresh(*parts), ended, config, head_config(*parts), tmp_path / "ended", quiet=True)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in (tmp_path / "ended").glob("*step_*")] == [f"step_{caught.value.step}"]
    heads = [fresh(*parts), fresh(*parts)]
    smooth = [
        fit(head, examples(*parts), config, head_config(*parts), tmp_path / name, quiet=True)
        for head, name in zip(heads, ("ended", "whole"), strict=True)
    ]
    assert smooth[0] == smooth[1]
    assert all(torch.equal(a, b) for a, b in zip(heads[0].parameters(), heads[1].parameters(), strict=True))


def test_a_full_disk_leaves_the_checkpoint_before(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    """The limit of a file's size stands for a full disk: writing fails half-way."""
    resource = pytest.importorskip("resource", reason="this system has no limit of a file's size")
    parts, before = (backbone, decoder), resource.getrlimit(resource.RLIMIT_FSIZE)

    def filled(features: Features) -> Features:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        return features

    full = Interrupted(examples(*parts), 3 * SHORT.images, filled)
    try:
        with pytest.raises(RunError, match=r"step_4 could not be written \(.*goes on from step_2") as caught:
            fit(fresh(*parts), full, SHORT, head_config(*parts), tmp_path, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.glob("*step_*")] == ["step_2"]
    fit(fresh(*parts), examples(*parts), SHORT, head_config(*parts), tmp_path, quiet=True)


@pytest.mark.parametrize("at", range(0, 450, 30))
def test_a_changed_byte_of_a_note_is_reported_for_the_note(straight: tuple[Lens, Path], at: int) -> None:
    """Not for a file whose checksum in the note has changed."""
    note = straight[1] / "step_30" / NOTE
    whole = note.read_bytes()
    assert len(whole) > 450
    changed = bytearray(whole)
    changed[at] ^= 4
    note.write_bytes(changed)
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value="NO"), is_main_process=True)
    try:
        with pytest.raises(RunError, match=rf"step_30/{NOTE} is missing or damaged .*; delete .*step_30 and the same"):
            read_note(note.parent, accelerator)
    finally:
        note.write_bytes(whole)
    assert read_note(note.parent, accelerator)["step"] == 30


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "checkpoint.json"])
def test_a_damaged_checkpoint_is_named(
    straight: tuple[Lens, Path], files: tuple[str, str], tmp_path: Path, file: str
) -> None:
    out = shutil.copytree(straight[1], tmp_path / "out")
    shutil.rmtree(out / "head")
    damaged = out / "step_30" / file
    content = bytearray(damaged.read_bytes())
    content[0 if file.endswith("json") else len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(RunError, match=rf"step_30/{file} is missing or .*; delete .*step_30 and the same") as caught:
        train(*files, str(out))
    assert "\n" not in str(caught.value)
    assert not (out / "head").exists()
    if file == "model.safetensors":
        shutil.rmtree(damaged.parent)  # as the error suggests
        again = train(*files, str(out))
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), straight[0].parameters(), strict=True))


def test_a_step_that_cannot_be_divided_is_refused() -> None:
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
    scores = json.loads((straight[1] / "best.json").read_text())
    assert best.config.trained is not None
    assert best.config.trained["validation"]["gIoU"] == scores["gIoU"]
    assert 0 <= scores["gIoU"] <= 1


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


def test_a_trained_head_runs_in_fp32_afterwards(
    straight: tuple[Lens, Path], backbone: Backbone, decoder: MaskDecoder
) -> None:
    """Training wraps the head in bf16 autocast; later use must not stay inside."""
    loaded = fresh(backbone, decoder).eval()
    loaded.load_state_dict(straight[0].state_dict())
    batch = collate([extract(DATA[i], backbone, decoder) for i in (0, 1)])
    with torch.no_grad():
        mine, theirs = (head(batch.inputs, batch.embedding).mask_logits for head in (straight[0], loaded))
    assert not straight[0].training
    assert torch.equal(mine, theirs)


def test_only_the_head_changes(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    head = fresh(backbone, decoder)

    def copies(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in module.state_dict().items()}

    mllm, sam, before = copies(backbone.module), copies(decoder.module), copies(head)
    parts = backbone, decoder
    fit(head, examples(*parts), SHORT, head_config(*parts), tmp_path, quiet=True)
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
    config_of_head, stream = head_config(*parts), examples(*parts)
    fit(fresh(*parts), stream, SHORT, config_of_head, tmp_path, quiet=True)
    for head, data, config, differing in (
        (fresh(*parts), stream, replace(SHORT, lr=2e-3), "training"),
        (fresh(*parts, replace(SMALL, aggregate="mean")), stream, SHORT, "method"),
        (fresh(*parts), examples(*parts, name="other"), SHORT, "data"),
    ):
        with pytest.raises(ValueError, match=rf"other settings \({differing} in"):
            fit(head, data, config, config_of_head, tmp_path, quiet=True)


def test_a_folder_with_another_train_json_is_refused(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    parts = backbone, decoder
    for contents, message in (
        ("{}", "holds no settings of a training run"),
        ("[]", "holds no settings of a training run"),
        ('{"training": {}, "method": null}', "holds no settings of a training run"),
        ('{"training": {', "train.json cannot be read"),
    ):
        (tmp_path / "train.json").write_text(contents)
        with pytest.raises(ValueError, match=message):
            fit(fresh(*parts), examples(*parts), SHORT, head_config(*parts), tmp_path, quiet=True)
        assert (tmp_path / "train.json").read_text() == contents


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    for contents in ("", "{}", '{"step": 3, "gIoU": "high"}'):
        (tmp_path / "best.json").write_text(contents)
        with pytest.raises(ValueError, match=r"best.json (cannot be read|holds no scores)"):
            validation_scores(tmp_path, "best")


def test_a_run_of_an_older_version_goes_on(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    """A setting that it did not have counts as its default; one that is set otherwise now is another run."""
    parts = backbone, decoder
    config_of_head, stream = head_config(*parts), examples(*parts)
    fit(fresh(*parts), stream, SHORT, config_of_head, tmp_path, quiet=True)
    written = json.loads((tmp_path / "train.json").read_text())
    del written["training"]["language_lr"], written["method"]["map_target"]
    written["method"]["newton"] = True  # which is "guarded" now
    (tmp_path / "train.json").write_text(json.dumps(written))
    fit(fresh(*parts), stream, SHORT, config_of_head, tmp_path, quiet=True)
    # whether layers run again in the backward pass decides no number
    fit(fresh(*parts), stream, replace(SHORT, recompute=True), config_of_head, tmp_path, quiet=True)
    for head, config, differing in (
        (fresh(*parts), replace(SHORT, language_lr=1e-3), "training"),
        (fresh(*parts, replace(SMALL, map_target="floor", map_size=16)), SHORT, "method"),
    ):
        with pytest.raises(ValueError, match=rf"other settings \({differing} in"):
            fit(head, stream, config, config_of_head, tmp_path, quiet=True)


def test_a_folder_in_use_is_refused(backbone: Backbone, decoder: MaskDecoder, tmp_path: Path) -> None:
    """The second run is refused, and has changed nothing."""
    parts = backbone, decoder
    with held(tmp_path / LOCK):
        with pytest.raises(InUseError, match=f"process {os.getpid()} .*give another folder"):
            fit(fresh(*parts), examples(*parts), SHORT, head_config(*parts), tmp_path, quiet=True)
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    fit(fresh(*parts), examples(*parts), SHORT, head_config(*parts), tmp_path, quiet=True)
    assert not (tmp_path / LOCK).exists()


def test_the_rate_rises_and_falls() -> None:
    config = TrainConfig(steps=100, warmup=10)
    rates = [config.rate(step) for step in range(101)]
    assert rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == 0
    assert {replace(config, schedule="constant", warmup=0).rate(step) for step in range(101)} == {1.0}


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0},
        {"images": 0},
        {"lr": -1.0},
        {"lr": float("inf")},
        {"save_every": 0},
        {"micro": 0},
        {"clip": 0.0},
        {"keep": 0},
    ],
)
def test_impossible_settings_are_refused(setting: dict) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        TrainConfig(**setting)


@pytest.mark.parametrize("missing", ["accelerate", "torch.utils.tensorboard", "wandb"])
def test_a_missing_extra_is_named_with_the_command_to_install_it(
    backbone: Backbone, decoder: MaskDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    parts = backbone, decoder
    config = replace(SHORT, trackers=("tensorboard", "wandb")) if missing == "wandb" else SHORT
    extra = "wandb" if missing == "wandb" else "train"
    with pytest.raises(ImportError, match=rf"pip install 'seglens\[{extra}\]'") as caught:
        fit(fresh(*parts), examples(*parts), config, head_config(*parts), tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
