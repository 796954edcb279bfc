"""A disk that is full and a memory that is small: nothing half-written, and the reason in a sentence."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from trials import LONGEST, Trial, cache, command, contents, limited, pieces, train

MB = 2**20
REASONS = ("File too large", "has no room", "No space left on device", "disk is full", "make room")


def prepare(folder: Path) -> None:
    """A scene, a huge picture, and the features that trainings here read."""
    from seglens.world.world import World

    Image.fromarray(World("test", 7).scene(0).image).save(folder / "scene.png")
    Image.fromarray(np.zeros((7000, 9000), np.uint8)).save(folder / "huge.png")


def segment(out: str, picture: str = "scene.png") -> list[object]:
    return ["segment", picture, "the largest thing", "the leftmost thing", "--out", out, "--trust"]


DISK: dict[str, tuple[Callable[[str], list[object]], tuple[int, int]]] = {  # and between which bytes a file ends
    "checkpoint": (train, (60_000, 400_000)),
    "export": (segment, (2_000, 20_000)),
    "cache": (cache, (2_000, 200_000)),
}


def full_disks(folder: Path, number: int, chance: random.Random) -> Iterator[Trial]:
    """Files that may not grow beyond a random size and, for root, file systems that are too small."""
    for name, (words, (low, high)) in DISK.items():
        right = f"whole {name}"
        done = command(*words(right), folder=folder)
        if done.code:
            raise RuntimeError(f"{name} does not even run with room: {done.output}")
        for k in range(number):
            size, out = chance.randint(low, high), f"full {name} {k}"
            short = command(*words(out), folder=folder, settings=[limited(resource.RLIMIT_FSIZE, size)])
            yield _judged(name, f"no file over {size} bytes", folder / out, folder / right, short)
            if short.code:
                again = command(*words(out), folder=folder)
                same = again.code == 0 and _same(contents(folder / out), contents(folder / right), whole=True)
                yield Trial(f"{name} once there is room", out, same, again.last)
        with small_disk(folder / f"small {name}", high // 3) as disk:
            if disk is not None:
                short = command(*words(str(disk / "out")), folder=folder)
                yield _judged(name, f"a disk of {high // 3} bytes", disk / "out", folder / right, short)


def _judged(name: str, what: str, out: Path, right: Path, short: object) -> Trial:
    explained = short.refused and any(reason in short.output for reason in REASONS)  # type: ignore[attr-defined]
    left = contents(out) if out.exists() else {}
    torn = (pieces(out) if out.exists() else []) or not _same(left, contents(right))
    fine = (explained or short.code == 0) and not torn  # type: ignore[attr-defined]
    return Trial(f"full disk during {name}", what, fine, f"{short.last} {torn or ''}")  # type: ignore[attr-defined]


def _same(left: dict[str, bytes], right: dict[str, bytes], whole: bool = False) -> bool:
    """Whether what is there is what a run with room leaves; names of moments and places aside."""
    plain = ("checkpoint.json", "config.json", "manifest.json", "optimizer.bin")
    names = [name for name in left if not name.endswith(plain)]
    return all(left[name] == right.get(name, left[name]) for name in names) and (
        not whole or left.keys() >= right.keys()
    )


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path | None]:
    """None where this user cannot mount one."""
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
        ).returncode
    ):
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def little_memory(folder: Path, number: int, chance: random.Random) -> Iterator[Trial]:
    """Beside what a process has already: for one picture, a huge one, a training; and for a start from nothing."""
    work: dict[str, Callable[[str], list[object]]] = {
        "segment": segment,
        "segment of 63 megapixels": lambda out: segment(out, "huge.png"),
        "train": train,
    }
    for name, words in work.items():
        for k in range(number):
            more = int(2 ** chance.uniform(3, 9)) * MB
            limit = limited(resource.RLIMIT_AS, psutil.Process().memory_info().vms + more)
            done = command(*words(f"little {name} {k}"), folder=folder, settings=[limit])
            yield Trial(f"little memory: {name}", f"{more // MB} MB more", done.code == 0 or done.refused, done.last)
    for k in range(max(1, number // 2)):
        size = chance.randint(300_000, 1_000_000)
        words = " ".join(f"'{word}'" for word in (sys.executable, "-m", "seglens", *segment(f"start {k}")))
        begun = subprocess.run(
            ["timeout", "-s", "KILL", str(LONGEST), "bash", "-c", f"ulimit -v {size} && exec {words}"],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        lines = begun.stderr.strip().splitlines()
        fine = begun.returncode == 0 or (len(lines) == 1 and "memory" in lines[0])
        yield Trial("little memory: a start", f"{size} kB in all", fine, f"{begun.returncode}: {lines[-1:]}")
