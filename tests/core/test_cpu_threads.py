"""The command line chooses the threads of a model; what the user has chosen stays, and a library changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from command import Run
from seglens.cli.loading import choose_threads
from seglens.core import process_limits
from seglens.core.cpu_threads import (
    COUNT,
    OURS,
    WAITING,
    WEIGHTS_PER_THREAD,
    prepare_threads,
    threads_for,
    use_threads_for,
)
from seglens.core.process_limits import cpu_quota, usable_cores
from seglens.inference.segmenter import Segmenter

BILLION = 10**9


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*COUNT, *WAITING, OURS):
        monkeypatch.setenv(name, "")  # so that what the test sets is removed, too
        monkeypatch.delenv(name)


def machine(monkeypatch: pytest.MonkeyPatch, cores: int, quota: float | None = None) -> None:
    monkeypatch.setattr(process_limits.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(process_limits, "cpu_quota", lambda: quota)


@pytest.mark.parametrize(("cores", "quota", "usable"), [(8, None, 8), (8, 2.5, 3), (8, 0.5, 1), (2, 64.0, 2)])
def test_a_quota_bounds_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, quota: float | None, usable: int
) -> None:
    machine(monkeypatch, cores, quota)
    assert usable_cores() == usable


def test_a_small_model_gets_one_thread_and_a_large_one_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 16)
    assert [threads_for(weights) for weights in (0, 12_600_000, 3 * WEIGHTS_PER_THREAD, 7 * BILLION)] == [1, 1, 3, 16]
    machine(monkeypatch, 16, 4.0)
    assert threads_for(7 * BILLION) == 4


def test_threads_wait_asleep_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 4)
    prepare_threads()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert not any(name in os.environ for name in COUNT)  # no quota: the runtime counts the cores by itself


@pytest.mark.parametrize(
    ("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "5"), ("KMP_BLOCKTIME", "1")]
)
def test_a_policy_of_the_user_stays(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    prepare_threads()
    assert {one: os.environ[one] for one in WAITING if one in os.environ} == {name: value}


@pytest.mark.parametrize("name", COUNT)
def test_a_number_of_the_user_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine(monkeypatch, 8, 2.0)
    monkeypatch.setenv(name, "7")
    prepare_threads()
    assert {one: os.environ[one] for one in COUNT if one in os.environ} == {name: "7"}
    monkeypatch.setattr(torch, "set_num_threads", lambda count: pytest.fail(f"set to {count}"))
    use_threads_for(7 * BILLION)


def test_within_a_quota_also_what_is_computed_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, 2.0)
    prepare_threads()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    counts = list[int]()
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    use_threads_for(0)  # the variable is not taken for the user's
    use_threads_for(7 * BILLION)
    assert counts == [1, 2]


def test_a_process_that_is_started_does_not_take_the_quota_for_a_choice_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, 8, 2.0)
    prepare_threads()
    program = "from seglens.core.cpu_threads import chosen_by_user; print(chosen_by_user())"
    for number, chosen in (("2", "False"), ("3", "True")):
        environment = {**os.environ, "OMP_NUM_THREADS": number}
        ran = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == chosen


@pytest.mark.parametrize(
    ("line", "files", "quota"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),  # a container sees its own group as the root
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3.0),  # the limit of the group above
        ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "200000 100000"}, 0.5),
        ("0::/docker/of-the-host", {"cpu.max": "200000 100000"}, 2.0),
        ("4:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "25000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 0.25),
        ("1:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None),
        ("4:memory:/a", {"memory/a/cpu.max": "1 2"}, None),
        ("0::/", {"cpu.max": "damaged"}, None),
    ],
)
def test_quotas_of_control_groups(tmp_path: Path, line: str, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "self").write_text(f"9:name=systemd:/\n{line}\n")
    assert cpu_quota(tmp_path / "self", tmp_path) == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path) is None


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_embedded_model_is_computed_on_one_thread(segmenter: Segmenter, two_threads: None) -> None:
    assert segmenter.decoder is not None
    choose_threads(segmenter.backbone, segmenter.decoder.module, segmenter.method)
    assert torch.get_num_threads() == 1
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1  # as the threads of a server that are started later


@pytest.mark.slow
def test_a_command_chooses_the_threads(seglens: Run, tmp_path: Path, two_threads: None) -> None:
    assert seglens("demo", "--out", str(tmp_path / "demo"))[0] == 0
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.slow
def test_a_library_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import os, torch; torch.set_num_threads(3); before = dict(os.environ); import seglens; seglens.Segmenter; "
        "print(torch.get_num_threads(), dict(os.environ) == before)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["3", "True"]


def test_no_command_loads_pytorch_before_its_threads_are_chosen() -> None:
    script = "import sys, seglens.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "False"
