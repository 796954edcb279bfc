"""Converted checkpoints in the cache folder: made once, however many processes need one, and verified when they are
read.

A copy holds `converted.json`, with a digest of every byte, and `verified.json`, with the size, times and inode of every
file when its digest was last compared. While these are the same, a file is taken to be the same."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from seglens.checkpoints.origin import CheckpointError
from seglens.core.files import DISK_FULL, file_digest, remove_leftovers, stamp, whole_folder, write_json
from seglens.core.locks import InUseError

CACHE = "SEGLENS_CACHE"  # the variable that names another cache folder
RECORD, VERIFIED = "converted.json", "verified.json"
PAUSE = 0.5  # seconds between two looks at a copy that another process makes


def cache_folder() -> Path:
    """Where converted checkpoints are kept: $SEGLENS_CACHE, else `seglens` in the user's cache folder."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "seglens"


def folder_of_copy(name: str, version: str) -> Path:
    return cache_folder() / "heads" / name.replace("/", "--") / version


def copies() -> list[Path]:
    """All that are kept."""
    return sorted(record.parent for record in (cache_folder() / "heads").glob(f"*/*/{RECORD}"))


def make_once(copy: Path, make: Callable[[Path], Mapping[str, Any]]) -> None:
    """Unless there is a copy, `make` fills its folder, and returns what the record has to name; where another process
    is making it, wait for that one. Nothing is kept of a failure.

    Raises CheckpointError when the cache folder cannot be written; otherwise as `make`."""
    waiting = False
    while not copy.is_dir():
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(whole_folder(copy))
            except InUseError as error:
                if not waiting:
                    print(f"waiting: {error}", file=sys.stderr, flush=True)
                waiting = True
                time.sleep(PAUSE)
                continue
            except FileExistsError:  # it has just been made
                if not copy.is_dir():
                    raise
                continue
            except OSError as error:
                raise _not_writable(error) from error
            remove_leftovers(copy.parent)
            _record(folder, make(folder))


def _not_writable(error: OSError) -> Exception:
    if error.errno in DISK_FULL:
        return error
    return CheckpointError(
        f"converted checkpoints are kept in {cache_folder()}, and nothing can be written there ({error.strerror}); "
        f"name another folder with {CACHE}"
    )


def _record(folder: Path, notes: Mapping[str, Any]) -> None:
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    stamps = {name: stamp(path) for name, path in files.items()}
    digests = dict(zip(files, _digests(list(files.values())), strict=True))
    write_json(folder / VERIFIED, {name: _state(path) for name, path in files.items()})
    write_json(folder / RECORD, {**notes, "files": stamps, "digests": digests})


def check(copy: Path, whole: bool = False) -> None:
    """Raises CheckpointError when a file is not as the conversion left it. Size, first and last MiB are compared; then
    every byte, of files whose times or inode have changed since that was last done, or of all if `whole`."""
    try:
        record = json.loads((copy / RECORD).read_text(encoding="utf-8"))
        stamps, digests = dict(record["files"]), dict(record.get("digests", {}))  # earlier records have no digests
        changed = [name for name, first in stamps.items() if _stamp(copy / name) != first]
        if not changed:
            changed = _changed(copy, digests, {} if whole else _verified(copy))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        changed = [RECORD]
    if changed:
        raise CheckpointError(f"{copy / changed[0]} was changed or lost; delete {copy}, and it is converted once more")


def _changed(copy: Path, digests: Mapping[str, str], verified: Mapping[str, Any]) -> list[str]:
    """The files with another digest, of those that are not known to be the same."""
    states = {name: _state(copy / name) for name in digests}
    unknown = [name for name in digests if states[name] != verified.get(name)]
    actual = dict(zip(unknown, _digests([copy / name for name in unknown]), strict=True))
    changed = [name for name in unknown if digests[name] != actual[name]]
    if unknown and not changed:
        with suppress(OSError):  # a cache that is only read has no note, and is compared each time
            write_json(copy / VERIFIED, states)
    return changed


def _digests(paths: list[Path]) -> list[str]:
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        return list(pool.map(file_digest, paths))


def _verified(copy: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((copy / VERIFIED).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _state(path: Path) -> list[int]:
    """What differs once a file is written, replaced or copied; no program sets the third, the time of change, back."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _stamp(path: Path) -> str | None:
    return stamp(path) if path.is_file() else None
