"""A folder or file that one run writes to: a second run gets an error that names the first. The lock ends with its
process, however that ends.

The locks are the system's (`flock`, which on Linux holds across the machines of an NFS share, too; on Windows a locked
byte), never the existence of a file alone. On a file system without locks nothing is locked."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"  # name of the lock file in the folder that it protects
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
LONGEST_WAIT, PAUSE = 5.0, 0.02  # seconds: until a holder has written its name, and between two attempts
SHOWN = 200  # characters of a command
FAR = 1 << 30  # the byte that Windows locks and makes unreadable: after all content


class InUseError(ValueError):
    """Another process writes there: which one, and what to do."""


@dataclass(frozen=True)
class Holder:
    """A process that writes, and the launch whose processes share the lock ("" for a single process)."""

    launch: str = ""
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    since: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))
    command: str = field(default_factory=lambda: shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:SHOWN])


@contextmanager
def held(file: Path, launch: str = "") -> Iterator[None]:
    """Keep other processes from what the lock file protects, until the block or the process ends. Processes with the
    same `launch` share it.

    Raises InUseError when another process has it, and OSError when the file cannot be made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = _taken(file, Holder(launch))
    try:
        yield
    finally:
        if _locked(stream):  # the last holder
            with contextlib.suppress(OSError):  # Windows removes no open file; one that stays does no harm
                file.unlink(missing_ok=True)
        stream.close()


def keeps_out(file: Path) -> bool:
    """Whether a process holds the lock and others are kept out: False where the file system has no locks."""
    with contextlib.suppress(FileNotFoundError), file.open("rb+") as stream:
        return not _locked(stream)
    return False


def _taken(file: Path, me: Holder) -> BinaryIO:
    """The lock file, open and locked until it is closed."""
    deadline = time.monotonic() + LONGEST_WAIT
    while True:
        stream = file.open("a+b")
        if _mine(stream, file, me):
            return stream
        holder = _read_holder(stream)
        stream.close()
        # of a launch, the first has it alone for a moment; of two single ones, the first may not have written its name
        for_good = holder is not None and holder.launch != me.launch if me.launch else holder is not None
        if time.monotonic() > deadline or (for_good and keeps_out(file)):
            raise InUseError(_in_use(file, holder))
        time.sleep(PAUSE)


def _mine(stream: BinaryIO, file: Path, me: Holder) -> bool:
    """Whether the lock is this process's, or one that it may share."""
    if _locked(stream) and _still(stream, file):
        _write_holder(stream, me)
        if not me.launch:
            return True
    # one kind of lock is not converted to the other in one step, and another process may get it between: read who has
    # it
    if not (me.launch and _locked(stream, shared=True) and _still(stream, file)):
        return False
    holder = _read_holder(stream)
    return holder is not None and holder.launch == me.launch


def _locked(stream: BinaryIO, shared: bool = False) -> bool:
    """Try to lock; whether this process has the lock now. Never waits."""
    try:
        if sys.platform != "win32":
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        elif not shared:  # Windows has one kind, which the first of a launch holds
            stream.seek(FAR)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        return error.errno not in TAKEN  # any other: there are no locks here
    return True


def _still(stream: BinaryIO, file: Path) -> bool:
    """Whether the open file still has that name: its last holder may have removed it."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    return False


def _write_holder(stream: BinaryIO, me: Holder) -> None:
    stream.truncate(0)
    stream.write(json.dumps(asdict(me)).encode())
    stream.flush()


def _read_holder(stream: BinaryIO) -> Holder | None:
    """The holder in the file, or None when none is written yet."""
    stream.seek(0)
    try:
        return Holder(**json.loads(stream.read()))
    except (ValueError, TypeError):
        return None


def _in_use(file: Path, holder: Holder | None) -> str:
    who = (
        "another process writes to it"
        if holder is None
        else f"process {holder.pid} on {holder.host} has been writing to it since {holder.since} ({holder.command})"
    )
    what = file.parent if file.name == LOCK else file.parent / file.name.removeprefix(".").removesuffix(LOCK)
    return f"{what} is in use: {who}; wait for its end, stop it, or give another folder"
