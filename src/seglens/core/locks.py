"""A place that one run writes to: a second run is told who is at it. The lock dies with its process, however that ends.

The system's own locks are used (`flock`, which Linux keeps across the machines of an NFS share too; on Windows a locked
byte), and never the mere existence of a file. On a file system without locks the place is used without."""

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

LOCK = ".lock"  # in the folder that it stands for
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
PATIENCE, LOOK = 5.0, 0.02  # seconds: until a holder has said who it is, and between two looks
SHOWN = 200  # letters of a command
FAR = 1 << 30  # the byte that Windows locks, and then lets nobody read: behind all that is written


class InUseError(ValueError):
    """Somebody else writes there: who, and what to do."""


@dataclass(frozen=True)
class Holder:
    """Who writes: a process, and the launch whose processes share the place ("" for a process on its own)."""

    launch: str = ""
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    since: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))
    command: str = field(default_factory=lambda: shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:SHOWN])


@contextmanager
def held(file: Path, launch: str = "") -> Iterator[None]:
    """Keep everybody else from what the lock file stands for, until the block ends or the process dies. Processes that
    name the same `launch` share it.

    Raises InUseError when somebody else has it, and OSError when the file cannot be made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = _taken(file, Holder(launch))
    try:
        yield
    finally:
        if _locked(stream):  # the last one out
            with contextlib.suppress(OSError):  # Windows removes no open file; one that stays stops nobody
                file.unlink(missing_ok=True)
        stream.close()


def _taken(file: Path, me: Holder) -> BinaryIO:
    """The lock file, open and locked until it is closed."""
    deadline = time.monotonic() + PATIENCE
    while True:
        stream = file.open("a+b")
        if _mine(stream, file, me):
            return stream
        theirs = _said(stream)
        stream.close()
        # of a launch, the first has it alone for a moment; of two on their own, the first may not have said its name
        for_good = theirs is not None and theirs.launch != me.launch if me.launch else theirs is not None
        if time.monotonic() > deadline or (for_good and _still_held(file)):
            raise InUseError(_words(file, theirs))
        time.sleep(LOOK)


def _mine(stream: BinaryIO, file: Path, me: Holder) -> bool:
    """Whether the lock is this process's, or one that it may share."""
    if _locked(stream) and _still(stream, file):
        _say(stream, me)
        if not me.launch:
            return True
    # one kind of lock does not become the other in one go, and somebody may have come between: look who it is
    if not (me.launch and _locked(stream, shared=True) and _still(stream, file)):
        return False
    theirs = _said(stream)
    return theirs is not None and theirs.launch == me.launch


def _locked(stream: BinaryIO, shared: bool = False) -> bool:
    """Whether this process has the lock now; never waits."""
    try:
        if sys.platform != "win32":
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        elif not shared:  # Windows knows one kind, which the first of a launch has
            stream.seek(FAR)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        return error.errno not in TAKEN  # any other: there are no locks here
    return True


def _still(stream: BinaryIO, file: Path) -> bool:
    """Whether the open file is the one of that name: its last holder may have removed it meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    return False


def _still_held(file: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), file.open("rb+") as stream:
        return not _locked(stream)
    return False


def _say(stream: BinaryIO, me: Holder) -> None:
    stream.truncate(0)
    stream.write(json.dumps(asdict(me)).encode())
    stream.flush()


def _said(stream: BinaryIO) -> Holder | None:
    """Who holds it, or None when that is not written yet."""
    stream.seek(0)
    try:
        return Holder(**json.loads(stream.read()))
    except (ValueError, TypeError):
        return None


def _words(file: Path, theirs: Holder | None) -> str:
    who = (
        "another process writes to it"
        if theirs is None
        else (f"process {theirs.pid} on {theirs.host} has been writing to it since {theirs.since} ({theirs.command})")
    )
    what = file.parent if file.name == LOCK else file.parent / file.name.removeprefix(".").removesuffix(LOCK)
    return f"{what} is in use: {who}; wait for its end, stop it, or give another folder"
