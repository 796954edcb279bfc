"""Errors that a user can mend, in one sentence each: what happened, and what to do next."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from seglens.core.process_limits import address_space_limit

RUST = ("SafetensorError", "PanicException")  # errors of packages that are written in it
LEAST = 900_000_000  # bytes of address space that torch and transformers need to be imported
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# what torch, its C++ parts, safetensors and the system say when there is no memory left
NO_MEMORY = re.compile(
    r"not enough memory|can(?:no|')t allocate memory|cannot allocate|std::bad_alloc|unable to mmap|out of memory|"
    r"failed to map segment from shared object(?!: Oper)|can't start new thread|could not create a primitive|"
    r"PyObject pointer is null",
    re.IGNORECASE,
)


def sentence(error: BaseException) -> str | None:
    """What to tell the user; None for a mistake of ours, which has to be raised again."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    if is_memory(error):
        return _no_memory(error)
    if isinstance(error, OSError) and error.errno in FULL:
        where = f" ({str(error.filename)!r})" if error.filename else ""
        return f"the disk is full{where}: {error.strerror}; make room or give another folder, and run the command again"
    if isinstance(error, ValueError | OSError | ImportError):
        return _line(error)
    return _line(error) if isinstance(error, RuntimeError) and _is_stage(error) else None


def too_tight() -> str | None:
    """What to tell a user whose limit (ulimit -v) is below what the packages need to be loaded: there some end the
    process without a word that we could catch. None where there is enough, or no such limit."""
    limit = address_space_limit()
    if limit is None or limit >= LEAST:
        return None
    return (
        f"there is not enough memory: a process may take {limit / 1e6:,.0f} MB here, and {LEAST / 1e6:,.0f} MB are "
        "needed to begin; raise the limit (ulimit -v)"
    )


def mind_limit() -> None:
    """Before NumPy is loaded: its OpenBLAS takes a buffer for every core then, and asks for ever where it is refused
    one. Under a limit (ulimit -v) it is told to take one; what users set themselves stays."""
    if address_space_limit() is not None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def is_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, of this machine or of its GPU."""
    return any(map(_tells_of_memory, _causes(error)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it was made of."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _tells_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    told_by_libraries = isinstance(error, RuntimeError | ImportError | OSError) or type(error).__name__ in RUST
    return told_by_libraries and bool(NO_MEMORY.search(str(error)))


def _no_memory(error: BaseException) -> str:
    said = _line(error)
    wanted = re.search(r"tried to allocate ([\d.]+ ?\w+)", said, re.IGNORECASE)
    more = f"{_size(wanted[1])} more were asked for" if wanted else said[:200]
    return (
        f"there is not enough memory ({more}); use smaller pictures, fewer queries at a time (in training --set "
        "micro=1), --load-in 8bit, another --device, or a machine with more memory"
    )


def _size(text: str) -> str:
    """Bytes for a person; other units as they are said."""
    number, _, unit = text.partition(" ")
    return f"{int(number) / 1e6:,.1f} MB" if number.isdigit() and unit in ("", "bytes") else text


def _is_stage(error: RuntimeError) -> bool:
    from seglens.embedded.subprocess_jobs import StageError  # only now: imports would slow the start of every command

    return isinstance(error, StageError)


def _line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{str(error.filename)!r}: {error.strerror}; check the path and its rights"
    return " ".join(str(error).split()) or type(error).__name__
