"""Many users at once: `python benchmarks/clients.py [--against PATH]`.

One `seglens serve` with the embedded default, and clients on the same machine. Each sends a picture of its own with a
question, waits for the mask, and sends the next. `--against` names the folder `src` of another version, whose server
gets the same requests; the ratio of throughputs is to that one. Every mask is compared with the library's own.
"""

from __future__ import annotations

import asyncio
import os
import sys
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from errands import SAME
from measure import Ratio, Report, machine, options
from PIL import Image
from served import Server, serving
from wire import Line, Reply, post

from seglens import Segmenter
from seglens.core.png_files import png_bytes
from seglens.core.process_limits import usable_cores
from seglens.core.types import Sample
from seglens.data.masks import decode_rle
from seglens.data.world import WorldData

OLD, NEW = "the other version", "this version"


@dataclass(frozen=True)
class Size:
    """Clients, how many requests each sends in a round, and how many of these warm the server up."""

    clients: int
    requests: int
    warm: int


SIZES = {"full": Size(64, 5, 1), "short": Size(64, 2, 1), "tiny": Size(3, 2, 1)}


@dataclass(frozen=True)
class Task:
    """A request, and what is right."""

    message: bytes
    found: bool
    mask: object

    def wrong(self, reply: Reply) -> bool:
        answer = reply.json()["answers"][0] if reply.status == 200 else {"found": None}
        if answer["found"] != self.found:
            return True
        return self.found and float((decode_rle(answer["segmentation"]) == self.mask).mean()) < SAME


def tasks(count: int) -> list[Task]:
    """Of as many pictures."""
    segmenter = Segmenter.from_pretrained(device="cpu")
    return [_task(segmenter, sample) for sample in WorldData(n=count, seed=31, queries=1)]


def _task(segmenter: Segmenter, sample: Sample) -> Task:
    query = sample.targets[0].query
    prediction = segmenter.segment(sample.image, query)
    image = "data:image/png;base64," + b64encode(png_bytes(Image.fromarray(sample.image))).decode()
    return Task(post("/v1/segment", {"image": image, "queries": [query]}), prediction.found, prediction.mask)


@dataclass
class Run:
    """What one server did."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    replies: list[tuple[Task, Reply]] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def wrong(self) -> int:
        return sum(task.wrong(reply) for task, reply in self.replies)

    def most(self, share: float) -> float:
        """Milliseconds below which that share of the answers came."""
        return 1e3 * sorted(self.latencies)[round(share * (len(self.latencies) - 1))]


async def load(server: Server, work: Sequence[Task], size: Size) -> Run:
    """Each client works through pictures that no other client has at that time."""
    run = Run()

    async def client(number: int, count: int, counts: bool) -> None:
        line = Line(server)
        for k in range(count):
            task = work[(number + k) % len(work)]
            began = perf_counter()
            reply = await line.exchange(task.message)
            if counts:
                run.latencies.append(perf_counter() - began)
                run.replies.append((task, reply))
        line.close()

    await asyncio.gather(*(client(k, size.warm, False) for k in range(size.clients)))
    began = perf_counter()
    await asyncio.gather(*(client(k, size.requests, True) for k in range(size.clients)))
    run.seconds = perf_counter() - began
    return run


def measure(work: Sequence[Task], size: Size, rounds: int, source: Path | None) -> Run:
    """All rounds together, each with a new server."""
    total = Run()
    for _ in range(rounds):
        with serving(None, source) as server:
            run = asyncio.run(load(server, work, size))
        total.seconds += run.seconds
        total.latencies += run.latencies
        total.replies += run.replies
    return total


def compare(name: str, rounds: int, against: Path | None) -> Report:
    size, before = SIZES[name], os.getloadavg()[0]
    work = tasks(size.clients)
    runs = {NEW: measure(work, size, rounds, None)}
    if against is not None:
        runs[OLD] = measure(work, size, rounds, against)
    rows = dict[str, float]()
    for which, run in runs.items():
        rows[f"{which}: requests per second"] = run.throughput
        rows[f"{which}: milliseconds of a request, median"] = run.most(0.5)
        rows[f"{which}: milliseconds of a request, 99 % are below"] = run.most(0.99)
        rows[f"{which}: requests"] = len(run.replies)
        rows[f"{which}: wrong or refused"] = run.wrong
    new = runs[NEW]
    ratios = [
        Ratio("99 % are below, as a multiple of the median", new.most(0.99) / new.most(0.5), 4, most=True),
        Ratio("wrong or refused requests", new.wrong, 0, most=True),
    ]
    if OLD in runs:
        ratios.append(Ratio("requests per second, to the other version's", new.throughput / runs[OLD].throughput, 1.6))
    notes = [f"{size.clients} clients; load of the machine (mean of a minute) before: {before:.2f}"]
    return Report("many users of a server, by the wall", name, "", rows, ratios, notes, machine("cpu", usable_cores()))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__ or "", tuple(SIZES), rounds=2)
    parser.add_argument("--against", type=Path, help="the folder src of another version")
    settings = parser.parse_args(arguments)
    compare(settings.size, settings.rounds, settings.against).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
