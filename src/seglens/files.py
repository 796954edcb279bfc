"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seglens.locks import LOCK, held


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a crash, sees the old file or the new one, never a part.

    Missing parent folders are made. Raises ``OSError`` that names ``path`` when it cannot be written; nothing is left
    behind.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """As `write_atomic`, of several files: none is there before all could be written."""
    written = list[tuple[Path, Path]]()
    try:
        for path, data in files.items():
            written.append((_written(path, (data,)), path))
        for temporary, path in written:
            os.replace(temporary, path)
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """As `write_atomic`, of data that comes in parts and need not fit in memory."""
    temporary = _written(path, parts)
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _written(path: Path, parts: Iterable[bytes]) -> Path:
    """A hidden file with the data, on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, because a rename is atomic only within one file system; opened by hand, because mkstemp's 0600 would
    # outlive the rename and lock other users out.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
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
    ``InUseError`` when another process is about to make it.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(errno.EEXIST, "exists already", str(path))
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with held(path.with_name(f".{path.name}{LOCK}")):
        temporary.mkdir()
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
