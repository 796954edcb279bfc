"""Pickles read as data: lists, dicts, tuples, sets, strings, bytes, numbers and None, and never a line of code.

A pickle is a program that may call anything. It is not run by Python's machine with a check in front, but by a smaller
one (`pickle_machine`), which has no instruction that imports, calls or builds anything else.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from seglens.data.faults import DataError
from seglens.data.pickle_machine import Machine, RefusedError

# References with RefCOCO's 142,000 sentences take 32 MB and 6 million steps. An instruction of one byte may cost 200
# bytes of memory, so the number of steps has its own limit.
MAX_BYTES = 1 << 28
MAX_STEPS = 30_000_000


def load(path: Path, encoding: str = "latin1", max_steps: int = MAX_STEPS) -> Any:
    """The value of the pickle at `path`. `encoding` is that of Python 2's byte strings.

    Raises DataError, naming the file, the byte and what it tried, on anything but plain data; on a file that is cut
    short or damaged; and on one of more than MAX_BYTES or `max_steps` instructions. Keys and members of sets must be
    strings, bytes, numbers or None."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{path} has {size} bytes; a pickle may have {MAX_BYTES}: split it, or export it as json")
    machine = Machine(path.read_bytes(), encoding)
    try:
        return machine.run(max_steps)
    except RefusedError as error:
        raise DataError(f"{path}: byte {machine.step}: {error}") from None
    except (IndexError, KeyError, ValueError, TypeError, struct.error, OverflowError) as error:
        message = " ".join(str(error).split())[:80] or type(error).__name__
        raise DataError(
            f"{path}: byte {machine.step}: the pickle is cut short or damaged ({message}); copy it again"
        ) from None
