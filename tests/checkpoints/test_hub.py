"""A head goes to a hub and comes back, through the hub's own client and a server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from httpx import Request, Response
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError

from hub_server import Hub, serving
from seglens.checkpoints.hub import fetch, push_folder, resolve_folder
from seglens.checkpoints.origin import CheckpointError, Origin
from seglens.inference.segmenter import Segmenter

NOT_FOUND = Response(404, request=Request("GET", "https://hub"))
PUBLISH = """
import sys
from dataclasses import replace
from seglens import Segmenter
from seglens.checkpoints.config import HeadConfig
from seglens.checkpoints.origin import Origin
from seglens.checkpoints.hub import hub_commit
from seglens.inference.frozen_models import Parts
mine = Segmenter.from_pretrained()
parts = Parts.load(Origin("org/mllm"), Origin("org/sam"), layer=mine.config.layer)
backbone, decoder = parts.origins()
config = replace(mine.config, backbone=backbone, decoder=decoder)
head = Segmenter(parts.backbone, parts.decoder, mine.method, config)
print(head.push_to_hub("org/head", token=sys.argv[1]))
"""
FETCH = """
import sys, numpy as np
from seglens import Segmenter
from seglens.data.world import WorldData
scene = WorldData(n=1, seed=5, queries=2)[0]
queries = [t.query for t in scene.targets]
one, other = (Segmenter.from_pretrained(name).segment(scene.image, queries) for name in ("org/head", "embedded"))
assert all(np.array_equal(a.mask_logits, b.mask_logits) for a, b in zip(one, other, strict=True))
print(Segmenter.from_pretrained("org/head").config.backbone.revision)
"""


def run(code: str, hub: Hub, cache: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", **variables}
    return subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def hub(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    for part in ("mllm", "sam"):
        shutil.copytree(plain / part, root / "org" / part)
    with serving(root) as hub:
        yield hub


@pytest.mark.slow
def test_a_head_goes_to_a_hub_and_comes_back(hub: Hub, tmp_path: Path) -> None:
    done = run(PUBLISH, hub, tmp_path / "mine", "hf_loopback")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(f"{hub.address}/org/head/commit/")
    assert hub.files("org/head") == ["README.md", "config.json", "head.safetensors"]
    entries = json.loads((hub.root / "org/head/config.json").read_text())
    assert entries["backbone"] == {"name": "org/mllm", "revision": hub.commit("org/mllm")}
    card = (hub.root / "org/head/README.md").read_text()
    assert "base_model: org/mllm" in card
    assert 'Segmenter.from_pretrained("org/head")' in card
    done = run(FETCH, hub, tmp_path / "theirs")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hub.commit("org/mllm")
    # what was fetched once needs no network
    assert run(FETCH, hub, tmp_path / "theirs", HF_HUB_OFFLINE="1").returncode == 0


@pytest.mark.slow
def test_a_refused_token_is_told_in_a_line(hub: Hub, tmp_path: Path) -> None:
    done = run(PUBLISH, hub, tmp_path, "hf_wrong")
    assert done.returncode != 0
    line = done.stderr.splitlines()[-1]
    assert (
        "CheckpointError: org/head could not be published on the hub: it refused (Client error '401 Unauthorized'"
        in line
    )
    assert line.endswith("; check the name and the token")


def test_a_head_of_local_parts_is_not_published(segmenter: Segmenter, tmp_path: Path) -> None:
    config = replace(segmenter.config, backbone=Origin.of(str(tmp_path)))
    with pytest.raises(CheckpointError, match=r"names '/.*', a folder that exists on this machine only") as caught:
        push_folder(tmp_path, config, "org/head")
    assert "\n" not in str(caught.value)


def test_a_name_that_is_nothing() -> None:
    with pytest.raises(CheckpointError, match="hub id such as org/name"):
        resolve_folder("nosuch")


def _failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("no route\nand more"), r"it did not answer \(no route\)"),
        (
            RemoteEntryNotFoundError("404 Client Error.\n\nhttps", response=NOT_FOUND),
            r"it refused \(404 Client Error\)",
        ),
        (HFValidationError("Repo id must be short."), r"this is no name of a model \(Repo id must be short\)"),
    ],
)
def test_a_failed_download_names_its_reason_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _failing(error))
    with pytest.raises(CheckpointError, match=rf"^org/x is no folder here, .* hub: {reason}; check the name") as caught:
        fetch("org/x", ["*.json"])
    assert "Error(" not in str(caught.value)
    assert type(error).__name__ not in str(caught.value)


def test_other_errors_are_not_taken_for_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError(28, "No space left on device", "file"), AttributeError("ours")):
        monkeypatch.setattr(huggingface_hub, "snapshot_download", _failing(error))
        with pytest.raises(type(error)) as caught:
            fetch("org/x", ["*.json"])
        assert caught.value is error


def test_the_heads_of_the_package() -> None:
    assert resolve_folder("embedded/mllmseg").name == "mllmseg"
    with pytest.raises(ValueError, match=r"no head of the package 'embedded/mlmseg'.*did you mean 'embedded/mllmseg'"):
        resolve_folder("embedded/mlmseg")
