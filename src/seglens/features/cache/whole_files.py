"""Files that are whole or not there, however large they are and whenever their writer is killed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from seglens.core.files import DISK_FULL
from seglens.features.cache.fingerprint import CacheError, digest

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed, which is the purpose of the lock
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".*.partial"


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes `path` at the end, flushed to the disk; after any error there is nothing.

    Raises CacheError when the disk is full."""
    temporary, file = _partial(path)
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        free = shutil.disk_usage(path.parent).free
        raise CacheError(
            f"{path} cannot be written: {error.strerror} ({size(free)} free); nothing of it is left behind: "
            "make room, and the same command goes on with what is missing"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
        _close(file)


def sweep(folder: Path) -> None:
    """Remove the files of killed writers. A running one holds a lock on its file, and the lock ends with it."""
    for path in folder.glob(PARTIAL):
        try:
            with path.open("rb") as file:
                if _locked(file):
                    path.unlink(missing_ok=True)
        except (FileNotFoundError, PermissionError):
            continue  # its writer has finished it, or (Windows) is writing it


def write_sealed(path: Path, body: dict[str, Any]) -> None:
    """Readable JSON with its own checksum."""
    with writing(path) as file:
        file.write(_sealed(body))


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """Raises CacheError when a byte of the file is not as it was written; `remedy` is what to do about it."""
    data = path.read_bytes()
    try:
        body = json.loads(data)["body"]
        intact = isinstance(body, dict) and _sealed(body) == data
    except (ValueError, TypeError, KeyError, RecursionError):
        intact = False
    if not intact:
        raise CacheError(f"{path} is damaged, cut short or was edited: its checksum does not fit; {remedy}")
    return body


def size(count: int | float) -> str:
    """Bytes for a person."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def _sealed(body: dict[str, Any]) -> bytes:
    # ASCII: a question may hold what has no UTF-8 form
    return json.dumps({"seal": digest(body), "body": body}, indent=1, allow_nan=False).encode() + b"\n"


def _partial(path: Path) -> tuple[Path, BinaryIO]:
    """A new hidden file beside `path`, locked. `sweep` may remove it before it is locked: then another."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        file = temporary.open("xb")
        if _locked(file) and temporary.exists():
            return temporary, file
        _close(file)


def _locked(file: Any) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close(file: BinaryIO) -> None:
    """Closing flushes, and on a full disk that fails as the write before it did."""
    try:
        file.close()
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
