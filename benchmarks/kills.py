"""Runs that are killed at any moment, and two runs in one folder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep

from trials import Running, Trial, cache, command, contents, train

from seglens.core.locks import LOCK

WEIGHTS = ("head/head.safetensors", "model.safetensors")  # what has to be the same after a training
Words = Callable[[str], list[object]]
WORK: Mapping[str, tuple[Words, Callable[[Path], Mapping[str, bytes]]]] = {
    "train": (train, lambda out: {name: data for name, data in contents(out).items() if name.endswith(WEIGHTS)}),
    "cache build": (cache, lambda out: {k: v for k, v in contents(out).items() if not Path(k).name.startswith(".")}),
}


def unbroken(folder: Path, name: str) -> tuple[Mapping[str, bytes], float]:
    """What the work leaves when nothing disturbs it, and its seconds."""
    words, results = WORK[name]
    began, out = monotonic(), f"unbroken {name}"
    done = command(*words(out), folder=folder)
    if done.code:
        raise RuntimeError(f"{name} does not even run undisturbed: {done.output}")
    return results(folder / out), monotonic() - began


def kills(folder: Path, name: str, number: int, chance: random.Random) -> Iterator[Trial]:
    """SIGKILL after random times; what is whole by then must be as of an unbroken run, and so must the end."""
    words, results = WORK[name]
    right, seconds = unbroken(folder, name)
    killed, at = 0, 0
    while killed < number:
        out, at = folder / f"killed {name} {at}", at + 1
        while killed < number:
            running = Running(words(out.name), folder)
            until = monotonic() + chance.uniform(0, seconds)
            while monotonic() < until and running.alive():
                sleep(0.002)
            if not running.alive():
                break
            running.kill()
            killed += 1
            torn = [k for k, v in results(out).items() if not k.startswith(("features", ".")) and v != right.get(k, v)]
            yield Trial(f"SIGKILL during {name}", f"after {seconds - until + monotonic():.1f} s", not torn, str(torn))
        done = command(*words(out.name), folder=folder)
        same = done.code == 0 and results(out) == right
        yield Trial(f"{name} after its kills", f"to its end, killed {killed} times so far", same, done.last)


def two_at_once(folder: Path, name: str, number: int) -> Iterator[Trial]:
    """The error of the second run names the first, which ends as if it were alone."""
    words, results = WORK[name]
    right, _ = unbroken(folder, name)
    for k in range(number):
        out = folder / f"two {name} {k}"
        first = Running(words(out.name), folder)
        while first.alive() and not (out / LOCK).exists():
            sleep(0.002)
        second = command(*words(out.name), folder=folder)
        names_the_first = second.refused and f"process {first.pid} " in second.output
        first.wait()
        fine = names_the_first and first.code == 0 and results(out) == right
        yield Trial(f"two runs of {name} in one folder", f"pair {k}", fine, second.last)
