"""Tiny models of the real transformers classes, with random weights, saved as anybody would save them."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from command import Run, in_process
from decoders.tiny import save_sam
from seglens.backbones import Backbone, load_backbone
from seglens.checkpoints.origin import embedded_folder
from seglens.core.types import Sample
from seglens.data.world import WorldData
from seglens.decoders import MaskDecoder, load_decoder
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter
from seglens.model_files.int8_weights import unpack_folder
from seglens.world.world import Scene, World
from tiny import KINDS, by_speed

torch.set_num_threads(1)  # the suite runs in parallel processes
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what runs in its background:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs started here would ignore Ctrl-C


@pytest.fixture(scope="session", params=by_speed(KINDS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, named by its kind, of each kind of MLLM in turn."""
    folder = tmp_path_factory.mktemp("kinds") / request.param
    KINDS[request.param].save(folder)
    return folder


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny LLaVA-1.5."""
    folder = tmp_path_factory.mktemp("llava")
    KINDS["llava-1.5"].save(folder)
    return folder


@pytest.fixture(scope="session")
def backbone(llava: Path) -> Backbone:
    return load_backbone(llava, attn_implementation="eager")


@pytest.fixture(scope="session")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny SAM, with windows, relative positions and its image processor's file."""
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    save_sam(folder)
    return folder


@pytest.fixture(scope="session")
def decoder(sam: Path) -> MaskDecoder:
    return load_decoder(sam)


@pytest.fixture
def seglens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, with its types checked: exit code, standard output, standard error."""
    return in_process(monkeypatch, capsys)


@pytest.fixture
def picture() -> np.ndarray:
    """A landscape image of noise."""
    return np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)


# ---------------------------------------------------------------- the embedded model, and features of the tiny ones


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    """The embedded model, as a user gets it."""
    return Segmenter.from_pretrained()


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded MLLM and SAM, as bare transformers reads them."""
    folder = tmp_path_factory.mktemp("plain")
    for part in ("mllm", "sam"):
        unpack_folder(embedded_folder(f"embedded/{part}"), folder / part)
    return folder


@pytest.fixture(scope="session")
def scene() -> Sample:
    """A scene of the world with three queries."""
    return WorldData(n=1, seed=5, queries=3)[0]


@pytest.fixture(scope="session")
def opened(segmenter: Segmenter, scene: Sample) -> OpenedImage:
    return segmenter.open(scene.image)


@pytest.fixture(scope="session")
def world_scenes() -> list[tuple[World, int, Scene]]:
    """The first 150 scenes of a train world and of a test world; a scene is never changed by its reader."""
    return [
        (world, index, world.scene(index)) for world in (World("train", 0), World("test", 1)) for index in range(150)
    ]


@pytest.fixture(scope="session")
def training_scenes() -> WorldData:
    """Six scenes to train on."""
    return WorldData(n=6, seed=3, split="train", queries=4)
