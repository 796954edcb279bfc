"""What a question costs through the server: `python benchmarks/serving.py`.

One `seglens serve` with the embedded default, and clients on the same machine. All flows run in turn in every round:
single questions one after another, as many at once by as many clients, the same number in one request; and an image
that is new to the server against one that it holds open.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from measure import Ratio, Report, machine, options
from PIL import Image
from served import Server, serving
from wire import Reply, exchange, post, request, upload

from seglens.data.world import WorldData
from seglens.prediction import png_bytes
from seglens.types import Sample


@dataclass(frozen=True)
class Size:
    """How many questions a flow asks in a round, and how many images are opened in one."""

    questions: int
    images: int


SIZES = {"full": Size(32, 8), "tiny": Size(4, 2)}


@dataclass
class Laps:
    """Milliseconds of single exchanges, by what they were."""

    of: dict[str, list[float]] = field(default_factory=dict)

    async def take(self, name: str, exchanged: Awaitable[Reply]) -> Reply:
        """Raises RuntimeError on a refusal: a benchmark of refusals would be fast."""
        began = perf_counter()
        reply = await exchanged
        self.of.setdefault(name, []).append(1e3 * (perf_counter() - began))
        if not 200 <= reply.status < 300:
            raise RuntimeError(f"{name}: the server said {reply.status}: {reply.body[:300]!r}")
        return reply

    def median(self, name: str) -> float:
        return statistics.median(self.of[name])

    def most(self, name: str, share: float = 0.95) -> float:
        """What all but a few stay below."""
        found = sorted(self.of[name])
        return found[min(len(found) - 1, round(share * (len(found) - 1)))]


FIRST, SECOND = "first question: upload, open, ask", "second question on the open image"
ONE, MANY, PACKED = "one after another, each", "at once, by as many clients, each", "in one request, each"


@dataclass(frozen=True)
class Flows:
    server: Server
    samples: Sequence[Sample]
    size: Size
    laps: Laps = field(default_factory=Laps)

    async def round(self, number: int) -> None:
        """All of them once, on images that the server has not seen."""
        for k in range(self.size.images):
            await self._first_and_second(self.samples[number * self.size.images + k])
        image = await self._open(self.samples[number * self.size.images])
        queries = self._queries(self.samples[number * self.size.images])
        await self._each(ONE, self._in_turn(image, queries))
        await self._each(MANY, asyncio.gather(*(self._ask(image, [query]) for query in queries)))
        await self._each(PACKED, self._ask(image, queries))

    async def _each(self, name: str, work: Awaitable[object]) -> None:
        began = perf_counter()
        await work
        self.laps.of.setdefault(name, []).append(1e3 * (perf_counter() - began) / self.size.questions)

    def _queries(self, sample: Sample) -> list[str]:
        """As many as a round asks; words repeat, work does not: nothing is cached between questions."""
        said = [target.query for target in sample.targets]
        return [said[k % len(said)] for k in range(self.size.questions)]

    async def _open(self, sample: Sample) -> str:
        file = png_bytes(Image.fromarray(sample.image))
        return str((await self.laps.take("upload, open", self._send(upload("/v1/images", file)))).json()["id"])

    async def _first_and_second(self, sample: Sample) -> None:
        one, other = sample.targets[0].query, sample.targets[1].query
        began = perf_counter()
        image = await self._open(sample)
        await self._ask(image, [one])
        self.laps.of.setdefault(FIRST, []).append(1e3 * (perf_counter() - began))
        await self.laps.take(SECOND, self._ask(image, [other]))
        await self._send(request("DELETE", f"/v1/images/{image}"))

    async def _in_turn(self, image: str, queries: Sequence[str]) -> None:
        for query in queries:
            await self.laps.take("a single question", self._ask(image, [query]))

    async def _ask(self, image: str, queries: Sequence[str]) -> Reply:
        return await self._checked(post("/v1/segment", {"image": image, "queries": list(queries)}))

    async def _checked(self, sent: bytes) -> Reply:
        reply = await self._send(sent)
        if reply.status != 200:
            raise RuntimeError(f"the server said {reply.status}: {reply.body[:300]!r}")
        return reply

    def _send(self, sent: bytes) -> Awaitable[Reply]:
        return exchange(self.server, sent)


def compare(name: str, rounds: int, threads: int) -> Report:
    size = SIZES[name]
    samples = [WorldData(n=1, seed=100 + k, queries=8)[0] for k in range((rounds + 1) * size.images)]
    with serving(threads) as server:
        asyncio.run(Flows(server, samples[-size.images :], size).round(0))  # warms up, and does not count
        flows = Flows(server, samples, size)
        for number in range(rounds):
            asyncio.run(flows.round(number))
    laps = flows.laps
    rows = {f"{size.questions} questions {how}": laps.median(how) for how in (ONE, MANY, PACKED)}
    for lap in (FIRST, SECOND, "upload, open", "a single question"):
        rows |= {f"{lap}: median": laps.median(lap), f"{lap}: 95 % are below": laps.most(lap)}
    ratios = [
        Ratio("batched questions, more per second than single ones in turn", laps.median(ONE) / laps.median(MANY), 3),
        Ratio("... in one request", laps.median(ONE) / laps.median(PACKED), 3),
        Ratio("second question as a share of the first", laps.median(SECOND) / laps.median(FIRST), 0.25, most=True),
    ]
    return Report("the server, by the wall", name, "ms", rows, ratios, machine=machine("cpu", threads))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__ or "", tuple(SIZES), rounds=9)
    parser.set_defaults(threads=2)
    asked = parser.parse_args(arguments)
    compare(asked.size, asked.rounds, asked.threads).show(asked.json)


if __name__ == "__main__":
    main(sys.argv[1:])
