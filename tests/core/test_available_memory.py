"""What does not fit into memory is reported before native code is entered: what is there, and what is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from seglens.backbones import load_backbone
from seglens.checkpoints.origin import embedded_folder
from seglens.cli import failures
from seglens.cli.failures import message_of
from seglens.core import available_memory as room
from seglens.core import process_limits
from seglens.core.available_memory import SPARE, address_space, check_room, free_memory, weight_bytes
from seglens.model_files import strict_loading as pretrained

MB = 10**6


def test_the_error_gives_the_memory_that_is_left_and_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "address_space", lambda: None)
    monkeypatch.setattr(room, "free_memory", lambda: 200 * MB)
    check_room(200 * MB - SPARE, "the weights in a")
    with pytest.raises(MemoryError, match=r"the weights in a need 2\d\d MB more, and 200 MB are left .* this machine"):
        check_room(200 * MB, "the weights in a")
    check_room(200 * MB, "the weights in a", resident=0)  # a mapped file
    monkeypatch.setattr(room, "address_space", lambda: 50 * MB)
    with pytest.raises(MemoryError, match=r"50 MB are left of what a process may take here \(ulimit -v\)") as caught:
        check_room(100 * MB, "the weights in a", resident=0)
    message = message_of(caught.value)
    assert message is not None
    assert message.startswith("there is not enough memory (the weights in a need")


def test_weights_are_weighed_by_their_heads_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(10, 20, dtype=torch.bfloat16), "b": torch.zeros(7, dtype=torch.int64)}, path)
    assert weight_bytes([path]) == (400 + 56, 0)
    assert weight_bytes([path], dtype=torch.float32) == (800 + 56, 800)
    assert weight_bytes([path], dtype=torch.bfloat16) == (400 + 56, 0)
    assert weight_bytes([path], lambda key: key == "a") == (56, 0)
    path.write_bytes(path.read_bytes()[:5])
    assert weight_bytes([path]) == (0, 0)  # the code that reads it reports what is wrong


@pytest.mark.parametrize(
    ("limit", "buffers", "threads"), [(2 * 10**9, None, "1"), (2 * 10**9, "2", "2"), (-1, None, None)]
)
def test_under_a_limit_openblas_takes_one_buffer(
    monkeypatch: pytest.MonkeyPatch, limit: int, buffers: str | None, threads: str | None
) -> None:
    """At its import it would ask for one for each core, for ever where that is refused."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", buffers or "")
    if buffers is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    monkeypatch.setattr(process_limits.resource, "getrlimit", lambda kind: (limit, limit))
    failures.prepare_for_limit()
    assert os.environ.get("OPENBLAS_NUM_THREADS") == threads


def test_numpy_is_not_loaded_before_the_limit_is_set() -> None:
    script = "import sys, seglens.cli; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "False"


def test_the_memory_of_this_machine_and_of_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    left = free_memory()
    assert left is not None
    assert 10 * MB < left <= psutil.virtual_memory().total + psutil.swap_memory().total
    used = psutil.Process().memory_info().vms
    monkeypatch.setattr(room, "address_space_limit", lambda: used + 10**12)
    assert address_space() == pytest.approx(10**12, rel=0.1)
    monkeypatch.setattr(room, "address_space_limit", lambda: 1)
    assert address_space() == 0
    monkeypatch.setattr(room, "address_space_limit", lambda: None)
    assert address_space() is None


def test_a_system_that_reports_no_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    assert free_memory() is None


@pytest.mark.parametrize("packed", [True, False])
def test_a_model_that_does_not_fit_is_refused_before_it_is_read(
    llava: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    def native(*args: object, **options: object) -> object:
        raise AssertionError("native code was entered")

    name = embedded_folder("embedded/mllm") if packed else llava
    monkeypatch.setattr(pretrained, "load_packed", native)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", native)
    monkeypatch.setattr(room, "address_space", lambda: SPARE)
    with pytest.raises(MemoryError, match="MB are left of what a process may take"):
        load_backbone(name)
