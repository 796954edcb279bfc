"""Errors that a user can correct, in one sentence each: what happened, and what to do next."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from seglens.core.files import DISK_FULL
from seglens.core.process_limits import address_space_limit

RUST = ("SafetensorError", "PanicException")  # errors of packages written in Rust
MIN_BYTES = 900_000_000  # bytes of address space that torch and transformers need to be imported
# messages of torch, its C++ parts, safetensors and the system when there is no memory left
NO_MEMORY = re.compile(
    r"not enough memory|can(?:no|')t allocate memory|cannot allocate|std::bad_alloc|unable to mmap|out of memory|"
    r"failed to map segment from shared object(?!: Oper)|can't start new thread|could not create a primitive|"
    r"PyObject pointer is null",
    re.IGNORECASE,
)


def message_of(error: BaseException) -> str | None:
    """The message for the user; None for an error in SegLens itself, which has to be raised again."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    if is_memory(error):
        return _no_memory(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        where = f" ({str(error.filename)!r})" if error.filename else ""
        return f"the disk is full{where}: {error.strerror}; make room or give another folder, and run the command again"
    if isinstance(error, ValueError | OSError | ImportError):
        return _line(error)
    return _line(error) if isinstance(error, RuntimeError) and _is_stage(error) else None


def too_little_memory() -> str | None:
    """The message for a user whose limit (ulimit -v) is below what the packages need to be loaded: some of them would
    end the process without an exception. None where there is enough memory, or no such limit."""
    limit = address_space_limit()
    if limit is None or limit >= MIN_BYTES:
        return None
    return (
        f"there is not enough memory: a process may take {limit / 1e6:,.0f} MB here, and {MIN_BYTES / 1e6:,.0f} MB are "
        "needed to begin; raise the limit (ulimit -v)"
    )


def prepare_for_limit() -> None:
    """To be called before NumPy is loaded: its OpenBLAS then allocates a buffer per core, and repeats for ever where
    this fails. Under a limit (ulimit -v) it is set to use one core; a value that the user has set stays."""
    if address_space_limit() is not None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def is_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, of this machine or of its GPU."""
    return any(map(_is_about_memory, _causes(error)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _is_about_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    from_library = isinstance(error, RuntimeError | ImportError | OSError) or type(error).__name__ in RUST
    return from_library and bool(NO_MEMORY.search(str(error)))


def _no_memory(error: BaseException) -> str:
    text = _line(error)
    size = re.search(r"tried to allocate ([\d.]+ ?\w+)", text, re.IGNORECASE)
    more = f"{_size(size[1])} more were needed" if size else text[:200]
    return (
        f"there is not enough memory ({more}); use smaller pictures, fewer queries at a time (in training --set "
        "micro=1), --load-in 8bit, another --device, or a machine with more memory"
    )


def _size(text: str) -> str:
    """Bytes in a readable form; other units as they are."""
    number, _, unit = text.partition(" ")
    return f"{int(number) / 1e6:,.1f} MB" if number.isdigit() and unit in ("", "bytes") else text


def _is_stage(error: RuntimeError) -> bool:
    from seglens.embedded.subprocess_jobs import (
        StageError,
    )  # imported here, as it would slow the start of every command

    return isinstance(error, StageError)


def _line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{str(error.filename)!r}: {error.strerror}; check the path and its permissions"
    return " ".join(str(error).split()) or type(error).__name__
