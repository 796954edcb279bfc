"""Builds on a local Ray of two actors, for `test_cache_ray.py`: python with_ray.py FOLDER. Writes FOLDER/report.

A separate program, because Ray warns, prints, and stays in the process."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import ray
from made_up import Pictures, extract, manifest_for

from seglens.core.types import Sample
from seglens.features.cache import CacheError
from seglens.features.cache.ray import build_with_ray
from seglens.features.cache.writer import Extract, Samples


@dataclass(frozen=True)
class Deadly(Pictures):
    """The first process to read the eighth image dies of it."""

    grave: str = ""

    def __getitem__(self, index: int) -> Sample:
        if index == 7 and not Path(self.grave).exists():
            Path(self.grave).touch()
            os._exit(1)
        return super().__getitem__(index)


def main(folder: Path) -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    samples, ticks = Deadly(40, grave=str(folder / "grave")), list[int]()

    def load() -> tuple[Samples, Extract]:
        return samples, extract

    built = build_with_ray(load, samples, folder / "cache", manifest_for(samples), actors=2, tick=ticks.append)
    again = build_with_ray(load, samples, folder / "cache", manifest_for(samples), actors=2)
    try:
        broken = Pictures(4, broken=(3,))
        build_with_ray(lambda: (broken, extract), broken, folder / "broken", manifest_for(broken), actors=1)
    except CacheError as error:
        (folder / "report").write_text(f"{built} {sum(ticks)}\n{again}\n{error}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
