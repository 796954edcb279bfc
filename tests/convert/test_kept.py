"""Converted checkpoints are made once, verified, and cleared of what killed processes leave."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from command import in_process
from seglens.checkpoints.origin import CheckpointError
from seglens.cli.doctor_checks import VERIFY
from seglens.convert import kept
from seglens.convert.kept import CACHE, RECORD, VERIFIED, cache_folder, check, copies, folder_of_copy, make_once
from seglens.convert.weights import Piece, Weights, write_model
from seglens.core.files import SAMPLE, stamp, whole_folder, write_json


class Ones(Weights):
    def __init__(self) -> None: ...

    def read(self, name: str) -> Tensor:
        return torch.ones(1000)


FORK = multiprocessing.get_context("fork")
WEIGHTS = "head/model.safetensors"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return folder_of_copy("org/model", "commit-1")


def fill(folder: Path) -> dict[str, str]:
    (folder / "head").mkdir()
    (folder / WEIGHTS).write_bytes(bytes(3 * SAMPLE))
    return {"name": "org/model"}


def change_the_middle(path: Path) -> None:
    """Size, first and last MiB stay."""
    before = stamp(path)
    with path.open("r+b") as file:
        file.seek(3 * SAMPLE // 2)
        file.write(b"x")
    assert stamp(path) == before


def test_a_copy_is_made_once(copy: Path) -> None:
    made = list[Path]()

    def make(folder: Path) -> dict[str, str]:
        made.append(folder)
        return fill(folder)

    make_once(copy, make)
    make_once(copy, make)
    assert len(made) == 1
    assert copies() == [copy]
    assert sorted(path.name for path in copy.iterdir()) == sorted(["head", RECORD, VERIFIED])
    assert json.loads((copy / RECORD).read_text())["name"] == "org/model"
    check(copy)
    check(copy, whole=True)


def test_a_copy_that_changed_in_the_middle_is_refused(copy: Path) -> None:
    make_once(copy, fill)
    change_the_middle(copy / WEIGHTS)
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match=rf"{WEIGHTS} was changed or lost; delete {copy}, and it is converted"
        ):
            check(copy)


def test_every_byte_is_read_once_while_the_files_stay(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, real = list[str](), kept.file_digest

    def counted(path: Path) -> str:
        read.append(path.name)
        return real(path)

    make_once(copy, fill)
    monkeypatch.setattr(kept, "file_digest", counted)
    check(copy)
    assert read == []  # the conversion has read them
    os.utime(copy / WEIGHTS)
    check(copy)
    check(copy)
    assert read == ["model.safetensors"]
    check(copy, whole=True)
    assert read == ["model.safetensors"] * 2


def test_doctor_reads_every_byte_when_it_is_asked(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("seglens.cli.doctor_checks.CHECKS", {})
    seglens = in_process(monkeypatch, capsys)
    make_once(copy, fill)
    assert seglens("doctor", "--verify")[:2] == (
        0,
        f"ok   {VERIFY}: 1 in {cache_folder()}, 0.0 GB, as they were converted\n",
    )
    change_the_middle(copy / WEIGHTS)
    code, out, _ = seglens("doctor", "--verify")
    assert (code, out.startswith(f"FAIL {VERIFY}: CheckpointError: {copy / WEIGHTS} was changed or lost")) == (1, True)
    assert seglens("doctor")[:2] == (0, "")


def test_a_change_below_the_file_system_is_found_by_reading_the_whole(copy: Path) -> None:
    """As of a damaged disk: size, times and inode are those of the last comparison."""
    make_once(copy, fill)
    change_the_middle(copy / WEIGHTS)
    state = (copy / WEIGHTS).stat()
    times = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    write_json(copy / VERIFIED, {WEIGHTS: times})
    check(copy)
    with pytest.raises(CheckpointError, match="was changed or lost"):
        check(copy, whole=True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {"head": 1}, "digests": []}'])
def test_a_record_that_is_none(copy: Path, content: str) -> None:
    make_once(copy, fill)
    (copy / RECORD).write_text(content)
    if json.loads(content or "0") == {"files": {"head": 1}, "digests": []}:
        with pytest.raises(CheckpointError, match="head was changed or lost"):
            check(copy)
        return
    with pytest.raises(CheckpointError, match=f"{RECORD} was changed or lost; delete {copy}"):
        check(copy)


@pytest.mark.parametrize("content", ["", "[]", '{"head/model.safetensors": 3}'])
def test_a_note_that_is_none_is_made_anew(copy: Path, content: str) -> None:
    make_once(copy, fill)
    before = (copy / VERIFIED).read_text()
    (copy / VERIFIED).write_text(content)
    check(copy)
    assert (copy / VERIFIED).read_text() == before


def test_a_cache_that_is_only_read_serves_its_copies(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_once(copy, fill)
    os.utime(copy / WEIGHTS)

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(kept, "write_json", refused)
    check(copy)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The library of safetensors names neither the file nor, as an error of the system, the reason."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(OSError, match="File too large") as caught:
            write_model(tmp_path, {"a": Piece((1000,), "a")}, Ones())
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "model.safetensors"))

    assert run(limited) == [0]


@pytest.mark.parametrize("place", ["/proc/seglens", "/dev/null/seglens"])
def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv(CACHE, place)
    with pytest.raises(CheckpointError, match=rf"kept in {place}, and nothing can be written there .*; name another"):
        make_once(folder_of_copy("org/model", "commit-1"), fill)


def test_nothing_is_kept_of_a_failure(copy: Path) -> None:
    def fail(folder: Path) -> dict[str, str]:
        fill(folder)
        raise CheckpointError("does not fit")

    with pytest.raises(CheckpointError, match="does not fit"):
        make_once(copy, fail)
    assert list(copy.parent.iterdir()) == []


def run(*targets: Callable[[], None]) -> list[int | None]:
    """The exit codes of a process for each."""
    processes = [FORK.Process(target=target) for target in targets]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_two_processes_make_one_copy(copy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The second waits for the first, and reads what that one made."""
    begun = FORK.Event()

    def make(folder: Path) -> dict[str, str]:
        begun.set()
        (tmp_path / str(os.getpid())).touch()
        assert not copy.exists()
        fill(folder)
        import time

        time.sleep(1)  # the other comes meanwhile
        return {}

    def first() -> None:
        make_once(copy, make)
        check(copy)

    def second() -> None:
        assert begun.wait(60)
        first()

    assert run(first, second) == [0, 0]
    assert sum(path.name.isdigit() for path in tmp_path.iterdir()) == 1
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    assert capfd.readouterr().err.count("waiting: ") == 1


def test_what_a_killed_process_left_is_removed_and_nothing_else(copy: Path) -> None:
    """Also what it left of another commit; not what a living process writes, nor a folder of another kind."""

    def killed() -> None:
        for version in ("commit-1", "commit-0"):
            if os.fork() == 0:
                with whole_folder(copy.with_name(version)) as folder:
                    fill(folder)
                    os.kill(os.getpid(), signal.SIGKILL)
            os.wait()

    assert run(killed) == [0]
    left = [path.name for path in copy.parent.glob(".*.tmp")]
    assert sorted(name.rpartition("-")[2][0] for name in left) == ["0", "1"]
    (copy.parent / ".other.tmp").mkdir()
    with whole_folder(copy.with_name("commit-2")) as living:
        fill(living)
        make_once(copy, fill)
        assert sorted(path.name for path in copy.parent.glob(".*.tmp")) == sorted([living.name, ".other.tmp"])
    check(copy)
    assert (copy.with_name("commit-2") / WEIGHTS).is_file()


def test_without_locks_no_hidden_folder_is_removed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could be that of a living process."""
    import fcntl

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    other = copy.with_name(f".{copy.name}.0123456789abcdef.tmp")
    other.mkdir(parents=True)
    make_once(copy, fill)
    assert other.is_dir()
