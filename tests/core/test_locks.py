"""Two processes that want the same place: the error of the second names the first; a dead process holds nothing."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from seglens.core.files import whole_folder
from seglens.core.locks import LOCK, InUseError, held

FORK = multiprocessing.get_context("fork")


def _keep(file: Path, launch: str, ready: Any, over: Any) -> None:
    with held(file, launch):
        ready.set()
        over.wait()


@contextmanager
def somebody(file: Path, launch: str = "") -> Iterator[multiprocessing.process.BaseProcess]:
    """Another process that has the lock."""
    ready, over = FORK.Event(), FORK.Event()
    process = FORK.Process(target=_keep, args=(file, launch, ready, over))
    process.start()
    assert ready.wait(60)
    yield process
    if process.is_alive():
        over.set()
    process.join()


def test_the_error_of_the_second_run_names_the_first(tmp_path: Path) -> None:
    file = tmp_path / "run" / LOCK
    with somebody(file) as other:
        with pytest.raises(InUseError) as caught, held(file):
            pytest.fail("two at once")
        message = str(caught.value)
        assert message.startswith(
            f"{tmp_path / 'run'} is in use: process {other.pid} on {os.uname().nodename} has been"
        )
        assert message.endswith("wait for its end, stop it, or give another folder")
        assert file.exists()
    assert not file.exists()
    with held(file):
        pass
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("launch", ["", "2 processes"])
def test_a_lock_dies_with_its_process(tmp_path: Path, launch: str) -> None:
    file = tmp_path / LOCK
    with somebody(file, launch) as other:
        assert other.pid is not None
        os.kill(other.pid, signal.SIGKILL)
        other.join()
        assert file.exists()  # nothing removed it, and it stops no process
        with held(file):
            pass
    assert not file.exists()
    file.write_text("written by nobody")
    with held(file, launch):
        pass


def test_processes_of_one_launch_share(tmp_path: Path) -> None:
    file = tmp_path / LOCK
    with somebody(file, "two") as one, somebody(file, "two"):
        with held(file, "two"):
            assert file.exists()
        for launch in ("", "three"):
            with pytest.raises(InUseError, match=f"process {one.pid} "), held(file, launch):
                pytest.fail("of another launch")
    assert not file.exists()
    with somebody(file), pytest.raises(InUseError), held(file, "two"):
        pytest.fail("it shares with nobody")


def _race(file: Path, inside: Path, launch: str, start: Any, results: Any) -> None:
    start.wait()
    try:
        with held(file, launch):
            mine = inside / str(os.getpid())
            mine.touch()
            results.put((True, len(list(inside.iterdir()))))
            mine.unlink()
    except InUseError as error:
        results.put((False, str(error)))


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["", "eight"])
def test_many_at_the_same_moment(tmp_path: Path, launch: str) -> None:
    """Alone, never two are inside; of one launch, no process is refused."""
    (tmp_path / "inside").mkdir()
    for _ in range(10):
        start, results = FORK.Event(), FORK.Queue()
        work = (tmp_path / LOCK, tmp_path / "inside", launch, start, results)
        processes = [FORK.Process(target=_race, args=work) for _ in range(8)]
        for process in processes:
            process.start()
        start.set()
        answers = [results.get(timeout=60) for _ in processes]
        for process in processes:
            process.join()
        within = [count for had, count in answers if had]
        assert within
        assert len(within) == 8 if launch else set(within) == {1}
        assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    for launch in ("", "two"):
        with held(tmp_path / LOCK, launch), held(tmp_path / LOCK, launch):
            pass


def test_a_folder_that_another_is_about_to_make(tmp_path: Path) -> None:
    with (
        somebody(tmp_path / f".made{LOCK}") as other,
        pytest.raises(InUseError, match=f"made is in use: process {other.pid} "),
        whole_folder(tmp_path / "made"),
    ):
        pytest.fail("two at once")
    with whole_folder(tmp_path / "made") as folder:
        (folder / "a").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_stage_of_the_embedded_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seglens.embedded import build

    ran = list[str]()
    monkeypatch.setitem(build.RUN, "vision", lambda *_: ran.append("vision"))
    monkeypatch.setitem(build.RUN, "sam", lambda *_: ran.append("sam"))
    with somebody(tmp_path / f".vision{LOCK}"):
        build.build(tmp_path, tmp_path / "weights", ["sam"])  # stages are apart
        with pytest.raises(InUseError, match="vision is in use"):
            build.build(tmp_path, tmp_path / "weights", ["vision"])
    with somebody(tmp_path / LOCK), pytest.raises(InUseError, match=f"{tmp_path} is in use"):
        build.build(tmp_path, tmp_path / "weights")
    assert ran == ["sam"]
