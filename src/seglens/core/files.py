"""Files that are either complete or absent."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from seglens.core.locks import LOCK, InUseError, held, keeps_out

SAMPLE = 1 << 20  # bytes
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # numbers of the errors of a write without room
LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")  # the hidden folder of `whole_folder`, by the name that it is for
ELSEWHERE = "choose another place, or allow to write over it (--overwrite; overwrite=True in Python)"


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a crash, sees the old file or the new one, never a part.

    Missing parent folders are made. Raises ``OSError`` that names ``path`` when it cannot be written; nothing is left
    behind.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """As `write_atomic`, of several files: none is there before all could be written."""
    with prepared((path, (data,)) for path, data in files.items()) as place:
        place()


def write_new(files: Mapping[Path, bytes], overwrite: bool = False) -> None:
    """As `write_together`, but never over a file that holds something else.

    Raises FileExistsError, before anything is written, that names the first such file."""
    if not overwrite:
        check_free([path for path, data in files.items() if not holds(path, data)])
    write_together(files)


def check_folder(folder: Path) -> None:
    """Raises OSError when nothing can be written into a folder, which need not exist yet."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    for wrong, code in (
        (not nearest.is_dir(), errno.ENOTDIR),
        (not os.access(nearest, os.W_OK | os.X_OK), errno.EACCES),
    ):
        if wrong:
            raise OSError(code, os.strerror(code), str(nearest))


def check_free(paths: Iterable[Path]) -> None:
    """Raises FileExistsError with the first of the paths that exist, and how many more there are."""
    existing = [path for path in paths if os.path.lexists(path)]
    if existing:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise FileExistsError(f"{str(existing[0])!r} is there already{more}; {ELSEWHERE}")


def holds(path: Path, data: bytes) -> bool:
    """Whether a file has exactly this content; False also where there is none."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


@contextmanager
def prepared(files: Iterable[tuple[Path, Iterable[bytes]]], aside: Path | None = None) -> Iterator[Callable[[], None]]:
    """All files are written to the disk under hidden names, beside their place or in the folder `aside` of the same
    file system; the function that this yields moves them to their places. Files and their parts are consumed one by
    one. Raises as `write_atomic`."""
    written = list[tuple[Path, Path]]()
    try:
        for path, parts in files:
            written.append((_written(path, parts, aside), path))
        yield lambda: _move(written)
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)


def _move(written: list[tuple[Path, Path]]) -> None:
    for temporary, path in written:
        os.replace(temporary, path)


def _written(path: Path, parts: Iterable[bytes], aside: Path | None) -> Path:
    """A hidden file with the data, on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, because a rename is atomic only within one file system; not mkstemp, because its mode 0600 would stay
    # after the rename and lock other users out.
    temporary = (aside or path.parent) / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a failed write names no file
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


class Digest:
    """The digest of data that comes in pieces."""

    def __init__(self, data: bytes = b""):
        self._hash = blake2b(data, digest_size=16)

    def update(self, data: bytes) -> None:
        self._hash.update(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def digest(data: bytes) -> str:
    return Digest(data).hexdigest()


def file_digest(path: Path) -> str:
    """`digest` of a file's content, whatever its size."""
    content = Digest()
    with path.open("rb") as file:
        while piece := file.read(SAMPLE):
            content.update(piece)
    return content.hexdigest()


def stamp(path: Path) -> str:
    """A digest of a file's size, beginning and end, by which other files and later states are recognised. Raises
    OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        first = file.read(SAMPLE)
        file.seek(max(len(first), size - SAMPLE))
        return digest(b"%d " % size + first + file.read(SAMPLE))


def write_json(path: Path, obj: Any) -> None:
    """Write ``obj`` to ``path`` as readable UTF-8 JSON, atomically.

    Raises ``ValueError`` on NaN or infinity, which JSON does not have (write ``None``), and ``TypeError`` on a value
    that JSON cannot hold.
    """
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A lone surrogate has no UTF-8 form, but its backslash escape is exactly JSON's own.
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside ``path`` to write to; it becomes ``path`` at the end, or disappears on an error.

    Raises ``FileExistsError`` at once when there is something at ``path`` already, other than an empty folder, and
    ``InUseError`` when another process is about to make it. What a killed process left of it is removed.
    """
    _check_vacant(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    lock = _lock_of(path)
    with held(lock):
        _check_vacant(path)  # another process may have made it before it gave the lock back
        _remove_leftovers(path, lock)
        temporary.mkdir()
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the hidden folders in `folder` that killed processes left in `whole_folder`, and none that a process is
    writing."""
    names = {match[1] for path in folder.glob(".*.tmp") if (match := LEFTOVER.fullmatch(path.name))}
    for path in (folder / name for name in sorted(names)):
        with suppress(InUseError, OSError), held(_lock_of(path)):
            _remove_leftovers(path, _lock_of(path))


def _check_vacant(path: Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(errno.EEXIST, "exists already", str(path))


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{LOCK}")


def _remove_leftovers(path: Path, lock: Path) -> None:
    """Of the folder `path`, whose lock this process holds. On a file system without locks nothing is removed: a hidden
    folder there may be another process's."""
    if not keeps_out(lock):
        return
    for other in path.parent.glob(".*.tmp"):
        match = LEFTOVER.fullmatch(other.name)
        if match and match[1] == path.name:
            shutil.rmtree(other, ignore_errors=True)
