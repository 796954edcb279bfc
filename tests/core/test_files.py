"""Files that are whole or not there, on a disk that is full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from seglens.core.files import (
    SAMPLE,
    check_folder,
    prepared,
    stamp,
    whole_folder,
    write_atomic,
    write_new,
    write_together,
)


def test_the_error_of_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write fails without a name; of several files none is left, nor a hidden one."""
    real, synced = os.fsync, list[int]()

    def full(file: int) -> None:
        synced.append(file)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_together({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert (caught.value.filename, list(tmp_path.iterdir())) == (str(tmp_path / "b"), [])
    write_atomic(tmp_path / "a", b"3")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"3"]


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "made"
    with whole_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    with pytest.raises(FileExistsError, match="exists already") as caught, whole_folder(target):
        pytest.fail("it was opened")
    assert caught.value.filename == str(target)

    def interrupted() -> None:
        with whole_folder(tmp_path / "other") as folder:
            (folder / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in target.parent.iterdir()] == ["made"]


def test_parts_make_one_file_or_none(tmp_path: Path) -> None:
    with prepared([(tmp_path / "deep" / "a", (bytes([number]) * 3 for number in range(3)))]) as place:
        place()
    assert (tmp_path / "deep" / "a").read_bytes() == b"\0\0\0\1\1\1\2\2\2"

    def breaking() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"), prepared([(tmp_path / "deep" / "a", breaking())]) as place:
        place()
    assert (tmp_path / "deep" / "a").read_bytes()[:3] == b"\0\0\0"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a"]


def test_new_files_are_written_over_nothing_else(tmp_path: Path) -> None:
    files = {tmp_path / "a": b"one", tmp_path / "b": b"two"}
    write_new(files)
    write_new(files)  # the same once more
    with pytest.raises(FileExistsError, match=r"b' is there already; choose another place, or allow"):
        write_new({tmp_path / "a": b"one", tmp_path / "b": b"three", tmp_path / "c": b"four"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"one", "b": b"two"}
    write_new({tmp_path / "b": b"three"}, overwrite=True)
    assert (tmp_path / "b").read_bytes() == b"three"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    check_folder(tmp_path / "deep" / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        check_folder(tmp_path / "file" / "deep")


def test_a_stamp_depends_on_beginning_end_and_length(tmp_path: Path) -> None:
    def of(data: bytes) -> str:
        (tmp_path / "a").write_bytes(data)
        return stamp(tmp_path / "a")

    large = bytes(5 * SAMPLE)
    kinds = [b"", b"a", b"b", large, large + b"\0", b"\1" + large[1:], large[1:] + b"\1"]
    assert len(set(map(of, kinds))) == len(kinds)
    assert of(large) == of(large)
