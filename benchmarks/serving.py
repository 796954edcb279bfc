"""What a question costs through the server: `python benchmarks/serving.py`.

One `seglens serve` with the embedded default, and clients on the same machine. All flows run in turn in every round:
single questions one after another, as many at once by as many clients, the same number in one request; and an image
that is new to the server against one that it holds open.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from measure import Ratio, Report, machine, options
from PIL import Image
from served import Server, serving
from wire import Line, Reply, post, request, upload

from seglens.core.png_files import png_bytes
from seglens.core.types import Sample
from seglens.data.world import WorldData


@dataclass(frozen=True)
class Size:
    """How many questions a flow asks in a round, and how many images are opened in one."""

    questions: int
    images: int


SIZES = {"full": Size(32, 8), "tiny": Size(4, 2)}


@dataclass
class Laps:
    """Milliseconds by the wall, and of the server's processor time, by what they were."""

    server: Server
    wall: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    work: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def take(self, name: str, count: int = 1) -> Iterator[None]:
        """What is done meanwhile, `count` times the same."""
        worked, began = self.server.worked, perf_counter()
        yield
        self.wall[name].append(1e3 * (perf_counter() - began) / count)
        self.work[name].append(1e3 * (self.server.worked - worked) / count)

    def median(self, name: str) -> float:
        return statistics.median(self.wall[name])

    def most(self, name: str, share: float = 0.95) -> float:
        """What all but a few stay below."""
        durations = sorted(self.wall[name])
        return durations[round(share * (len(durations) - 1))]

    def worked(self, name: str) -> float:
        """A mean: the system counts in steps as long as a question."""
        return statistics.mean(self.work[name])


FIRST, SECOND, OPEN = "first question: upload, open, ask", "second question on the open image", "upload, open"
ONE, MANY, PACKED = "one after another, each", "at once, by as many clients, each", "in one request, each"


@dataclass(frozen=True)
class Flows:
    """Every client keeps its connection; the first of them does all that one client does."""

    lines: Sequence[Line]
    laps: Laps

    async def round(self, samples: Sequence[Sample]) -> None:
        """All of them once, on images that the server has not seen."""
        await asyncio.gather(
            *(self._done(request("GET", "/healthz"), line) for line in self.lines)
        )  # all are connected
        for sample in samples:
            await self._first_and_second(sample)
        image, count = await self._open(samples[0]), len(self.lines)
        texts = [target.query for target in samples[0].targets]
        queries = [texts[k % len(texts)] for k in range(count)]  # words repeat, work does not: no answer is kept
        with self.laps.take(ONE, count):
            for query in queries:
                await self._ask(image, [query])
        with self.laps.take(MANY, count):
            pairs = zip(queries, self.lines, strict=True)
            await asyncio.gather(*(self._ask(image, [query], line) for query, line in pairs))
        with self.laps.take(PACKED, count):
            await self._ask(image, queries)

    async def _first_and_second(self, sample: Sample) -> None:
        one, other = (target.query for target in sample.targets[:2])
        with self.laps.take(FIRST):
            with self.laps.take(OPEN):
                image = await self._open(sample)
            await self._ask(image, [one])
        with self.laps.take(SECOND):
            await self._ask(image, [other])
        await self._done(request("DELETE", f"/v1/images/{image}"))

    async def _open(self, sample: Sample) -> str:
        message = upload("/v1/images", png_bytes(Image.fromarray(sample.image)))
        return str((await self._done(message)).json()["id"])

    async def _ask(self, image: str, queries: Sequence[str], line: Line | None = None) -> None:
        await self._done(post("/v1/segment", {"image": image, "queries": list(queries)}), line)

    async def _done(self, message: bytes, line: Line | None = None) -> Reply:
        """Raises RuntimeError on a refusal: refusing would be fast."""
        reply = await (line or self.lines[0]).exchange(message)
        if not 200 <= reply.status < 300:
            raise RuntimeError(f"the server answered {reply.status}: {reply.body[:300]!r}")
        return reply


async def measure(server: Server, size: Size, rounds: int) -> Laps:
    laps = Laps(server)
    for number in range(-1, rounds):
        samples = [WorldData(n=1, seed=101 + number * size.images + k, queries=8)[0] for k in range(size.images)]
        lines = [Line(server) for _ in range(size.questions)]
        # the first round warms up, and does not count
        await Flows(lines, laps if number >= 0 else Laps(server)).round(samples)
        for line in lines:
            line.close()
    return laps


def compare(name: str, rounds: int, threads: int) -> Report:
    size = SIZES[name]
    with serving(threads) as server:
        laps = asyncio.run(measure(server, size, rounds))
    rows = {f"{size.questions} questions {how}": laps.median(how) for how in (ONE, MANY, PACKED)}
    for lap in (FIRST, SECOND, OPEN):
        rows |= {f"{lap}: median": laps.median(lap), f"{lap}: 95 % are below": laps.most(lap)}
    rows |= {f"the server's own work: {lap}": laps.worked(lap) for lap in (ONE, MANY, PACKED, FIRST, SECOND)}
    ratios = [
        Ratio("questions at once, more per second than one after another", laps.median(ONE) / laps.median(MANY), 3),
        Ratio("... in one request", laps.median(ONE) / laps.median(PACKED), 3),
        Ratio("... at once, by the server's own work", laps.worked(ONE) / laps.worked(MANY)),
        Ratio("second question as a share of the first", laps.median(SECOND) / laps.median(FIRST), 0.25, most=True),
        Ratio("... by the server's own work", laps.worked(SECOND) / laps.worked(FIRST)),
    ]
    return Report("the server, by the wall", name, "ms", rows, ratios, machine=machine("cpu", threads))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__ or "", tuple(SIZES), rounds=9)
    parser.set_defaults(threads=2)
    settings = parser.parse_args(arguments)
    compare(settings.size, settings.rounds, settings.threads).show(settings.json)


if __name__ == "__main__":
    main(sys.argv[1:])
