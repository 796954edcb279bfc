"""One training run from files alone: for a killed process, for the one that goes on, and for each of many."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from forked import Started
from seglens.backbones import Backbone, load_backbone
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.origin import Origin
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder, load_decoder
from seglens.inference.frozen_models import Parts
from seglens.methods import Lens, LensConfig, build_lens
from seglens.training.config import TrainConfig
from seglens.training.example_stream import SampledStream, epochs_of
from seglens.training.trainer import fit

SMALL = replace(LensConfig(), descriptor_width=16, encoder_width=16)
LONG = TrainConfig(steps=30, images=3, lr=1e-3, warmup=3, save_every=3, log_every=1, seed=4)
Run = Callable[..., Lens]
DATA = WorldData(n=6, seed=3, split="train", queries=4)


def fresh(backbone: Backbone, decoder: MaskDecoder, config: LensConfig = SMALL) -> Lens:
    torch.manual_seed(1)
    return build_lens(config, backbone, decoder)


def head_config(backbone: Backbone, decoder: MaskDecoder, config: LensConfig = SMALL) -> HeadConfig:
    origins = Origin.of(backbone.name), Origin.of(decoder.name)
    return HeadConfig("lens", vars(config), origins[0], backbone.layer, origins[1])


def examples(backbone: Backbone, decoder: MaskDecoder, data: WorldData = DATA, name: str = "world") -> SampledStream:
    return epochs_of(Parts(backbone, decoder).live(data, name), seed=4)


def train(llava: str, sam: str, out: str, **settings: object) -> Lens:
    torch.set_num_threads(1)
    parts = load_backbone(llava, attn_implementation="eager"), load_decoder(sam)
    head = fresh(*parts)
    config = replace(LONG, **settings)
    validation = Parts(*parts).live(WorldData(n=3, seed=9, queries=2), "validation")
    fit(head, examples(*parts), config, head_config(*parts), Path(out), validation=validation, quiet=True)
    return head


def run(files: tuple[str, str], out: Path, processes: int = 1, how: Run = train, **settings: object) -> Started:
    """The same run in separate processes."""
    return Started(_run, how, files, str(out), settings, processes=processes)


def _run(how: Run, files: tuple[str, str], out: str, settings: dict[str, object]) -> None:
    how(*files, out, **settings)


def killed(started: Started, out: Path, least: int = 1, files: str = "step_*") -> int:
    """Kill the run at a random moment after some checkpoints. Returns the step that it had reached."""
    try:
        while len(list(out.glob(files))) < least and started.running:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.15))
    finally:
        started.kill()
    assert set(started.wait()) == {-signal.SIGKILL}, f"it was to be killed before its end: {started.errors}"
    return max((int(p.name.split("_")[1]) for p in out.glob("step_*")), default=0)


def finished(started: Started) -> str:
    """Wait for the end. Returns what was printed."""
    assert set(started.wait()) == {0}, started.errors
    return started.printed


def head_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "head" / "head.safetensors")


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], step: float = LONG.lr) -> float:
    """The largest difference of two heads, in steps of the optimiser."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one) / step
