"""A trial of faults: `python benchmarks/faults.py [--quick] [--only KIND ...] [--seed N] [--json]`.

Processes are killed at random moments, bytes flipped, disks filled, folders shared, memory taken away, and servers
attacked beside honest clients. It prints how many faults of each kind were tried and in how many the product held: the
same bytes as without the fault, or a refusal in one sentence that names what is wrong. Exit code 1 when one did not.

Needs Linux. Nothing outside a temporary folder is touched, and the servers listen to this machine alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic

from measure import machine
from trials import Trial, ready, summary


@dataclass(frozen=True)
class Size:
    """How many faults of each kind."""

    kills: int = 20
    flips: int = 200
    disks: int = 5  # of each kind of file
    pairs: int = 3
    memories: int = 5
    hostile: int = 500  # to each server
    clients: int = 64


SIZES = {"usual": Size(), "quick": Size(2, 16, 1, 1, 1, 64, 8), "tiny": Size(1, 4, 1, 1, 1, 0, 0)}
Work = Callable[[Path, Size, random.Random], Iterator[Trial]]


def _kills(folder: Path, size: Size, chance: random.Random) -> Iterator[Trial]:
    from kills import WORK, kills

    for name in WORK:
        yield from kills(folder, name, size.kills, chance)


def _pairs(folder: Path, size: Size, chance: random.Random) -> Iterator[Trial]:
    from kills import WORK, two_at_once

    for name in WORK:
        yield from two_at_once(folder, name, size.pairs)


def _flips(folder: Path, size: Size, chance: random.Random) -> Iterator[Trial]:
    from flips import flips

    yield from flips(folder, size.flips, chance)


def _disks(folder: Path, size: Size, chance: random.Random) -> Iterator[Trial]:
    from shortages import full_disks, prepare

    prepare(folder)
    yield from full_disks(folder, size.disks, chance)


def _memory(folder: Path, size: Size, chance: random.Random) -> Iterator[Trial]:
    from shortages import little_memory, prepare

    prepare(folder)
    yield from little_memory(folder, size.memories, chance)


def _crowds(folder: Path, size: Size, chance: random.Random) -> Iterator[Trial]:
    from crowds import at_the_server, over_mcp

    yield from at_the_server(size.clients, size.hostile)
    yield from over_mcp(size.clients, size.hostile, chance)


KINDS: Mapping[str, Work] = {
    "kills": _kills,
    "flips": _flips,
    "disks": _disks,
    "pairs": _pairs,
    "memory": _memory,
    "crowds": _crowds,
}


def tried(kinds: Sequence[str], size: Size, seed: int) -> list[Trial]:
    """Every fault of these kinds, one after the other."""
    trials = list[Trial]()
    for kind in kinds:
        began = monotonic()
        with tempfile.TemporaryDirectory(prefix=f"faults-{kind}-") as folder:
            for trial in KINDS[kind](Path(folder), size, random.Random(f"{seed} {kind}")):
                trials.append(trial)
                if not trial.held:
                    print(f"did not hold: {trial.kind}: {trial.what}: {trial.said}", file=sys.stderr, flush=True)
        print(f"{kind}: {monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return trials


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="usual")
    parser.add_argument("--quick", action="store_const", dest="size", const="quick", help="as --size quick")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    ready()
    trials = tried(options.only, SIZES[options.size], options.seed)
    counts, failed = summary(trials), [asdict(trial) for trial in trials if not trial.held]
    if options.json:
        print(json.dumps({"size": options.size, "seed": options.seed, "kinds": counts, "failed": failed}, indent=1))
    else:
        print(f"size {options.size}, seed {options.seed}; {machine('cpu', 1)}")
        for kind, count in counts.items():
            print(f"{kind}: {count['tried']} tried, {count['held']} held")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
