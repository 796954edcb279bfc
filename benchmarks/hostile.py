"""A crowd at the server, a tenth of it hostile: `python benchmarks/hostile.py`.

Many clients at once send mixed requests to one `seglens serve` with the embedded default. Every good one is compared
with what the library itself answers, and sent again when it was refused with Retry-After or its image had to make room,
as the server's own words say. Every hostile one must be refused in the right words. The server's memory is watched.
Exit code 1 when a good request is wrong or lost, or a hostile one is not refused as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter

from attacks import ATTACKS, IMAGES, Target
from errands import Errand, Verdict, errands
from measure import machine
from served import Server, serving
from wire import NOTHING, Reply, exchange, request, upload

from seglens import Segmenter
from seglens.backbones import hide_loading_bars

# Of a good client's requests, in shares: the rest asks about an image that is open
WANTS = {"new image": 0.10, "image in the request": 0.08, "refine": 0.10, "talk": 0.04, "look": 0.08}
TRIES = 40  # of a request that the server asks to send again
LOOK = 0.5  # seconds between two readings of the memory


@dataclass
class Tally:
    """What happened."""

    good: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    again: Counter[str] = field(default_factory=Counter)  # why a good request was sent again
    attacked: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    worst: float = 1.0  # share of the pixels in which a mask was the library's
    masks: int = 0  # answers with masks
    exact: int = 0  # ... the library's in every pixel
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MB

    def judge(self, what: str, verdict: Verdict) -> None:
        self.good += 1
        if verdict.same is not None:
            self.worst = min(self.worst, verdict.same)
            self.masks += 1
            self.exact += verdict.same == 1
        if not verdict.right:
            self.wrong.append(f"{what} (same pixels: {verdict.same})")

    @property
    def fine(self) -> bool:
        return not (self.wrong or self.lost or self.surprises)

    def memory_then(self, start: float, end: float) -> float:
        """Its median between two shares of the run."""
        count = len(self.memory)
        return statistics.median(self.memory[int(start * count) : max(int(end * count), int(start * count) + 1)])


class GoodClient:
    """Opens images, asks about them, corrects, talks; and knows what is right."""

    def __init__(self, server: Server, known: Sequence[Errand], tally: Tally, chance: random.Random):
        self.server, self.known, self.tally, self.chance = server, known, tally, chance
        self.image, self.errand = "", known[0]
        self.wants: dict[str, Callable[[], Awaitable[None]]] = {
            "new image": self.open,
            "image in the request": self.at_once,
            "refine": self.refine,
            "talk": self.talk,
            "look": self.look,
            "ask": self.ask,
        }

    async def request(self) -> None:
        """One of the things that it wants, as often as it must be sent."""
        kinds = [*WANTS, "ask"]
        weights = [*WANTS.values(), 1 - sum(WANTS.values())]
        await self.wants[self.chance.choices(kinds, weights)[0]]()

    async def open(self) -> None:
        self.errand = self.chance.choice(self.known)
        reply = await self.send("open", lambda: upload(IMAGES, self.errand.png))
        self.image = reply.json()["id"] if reply.status == 201 else ""
        self.tally.judge("open", Verdict(reply.status == 201))

    async def ask(self) -> None:
        which = self.some()
        reply = await self.of_open("ask", lambda: self.errand.segment(self.image, which))
        self.tally.judge("ask", self.errand.right(reply, which))

    async def refine(self) -> None:
        reply = await self.of_open("refine", lambda: self.errand.refine(self.image))
        self.tally.judge("refine", self.errand.right_refined(reply))

    async def at_once(self) -> None:
        errand, which = self.chance.choice(self.known), self.some()
        reply = await self.send("image in the request", lambda: errand.segment(errand.uri, which))
        self.tally.judge("image in the request", errand.right(reply, which))

    async def talk(self) -> None:
        errand = self.chance.choice(self.known)
        reply = await self.send("talk", errand.talk)
        self.tally.judge("talk", errand.right_words(reply))

    async def look(self) -> None:
        path = self.chance.choice(("/healthz", "/metrics", "/v1/models"))
        reply = await self.send("look", lambda: request("GET", path))
        self.tally.judge(f"look at {path}", Verdict(reply.status == 200))

    def some(self) -> list[int]:
        """A few of the queries about an image."""
        return self.chance.sample(range(len(self.errand.queries)), self.chance.randint(1, 4))

    async def of_open(self, what: str, build: Callable[[], bytes]) -> Reply:
        """About the open image; one that was closed for others is opened again, as the server's error asks."""
        for _ in range(TRIES):
            if not self.image:
                opened = await self.send("open", lambda: upload(IMAGES, self.errand.png))
                self.image = opened.json()["id"] if opened.status == 201 else ""
            reply = await self.send(what, build)
            if reply.code != "image_not_found":
                return reply
            self.tally.again["image_not_found"] += 1
            self.image = ""
        return reply

    async def send(self, what: str, build: Callable[[], bytes]) -> Reply:
        reply = NOTHING
        for _ in range(TRIES):
            began = perf_counter()
            with suppress(TimeoutError):
                reply = await exchange(self.server, build())
            self.tally.seconds.append(perf_counter() - began)
            if reply.status != 503:
                break
            self.tally.again[reply.code] += 1
            await asyncio.sleep(1)  # Retry-After
        if not reply.status:
            self.tally.lost.append(what)
        return reply


@dataclass(frozen=True)
class Crowd:
    """Clients that take requests from one list until it is done."""

    server: Server
    known: Sequence[Errand]
    tally: Tally
    requests: int
    share: float  # of hostile ones
    seed: int = 0

    async def run(self, clients: int) -> None:
        plan, work = self.plan(), []
        watch = asyncio.ensure_future(self.watch())
        for k in range(clients):
            good = GoodClient(self.server, self.known, self.tally, random.Random(f"{self.seed} {k}"))
            work.append(self.client(good, plan))
        await asyncio.gather(*work)
        watch.cancel()

    def plan(self) -> Iterator[str | None]:
        """An attack's name, or None for a good request. Every kind comes once before any comes again."""
        hostile = itertools.islice(itertools.cycle(ATTACKS), round(self.share * self.requests))
        names: list[str | None] = [*hostile]
        names += [None] * (self.requests - len(names))
        random.Random(self.seed).shuffle(names)
        return iter(names)

    async def client(self, good: GoodClient, plan: Iterator[str | None]) -> None:
        for attack in plan:
            await (good.request() if attack is None else self.attack(attack))

    async def attack(self, name: str) -> None:
        kind, errand = ATTACKS[name], self.known[0]
        try:
            reply = await kind.run(Target(self.server, errand.png, errand.uri))
        except TimeoutError:
            self.tally.surprises.append(f"{name}: no end")
            return
        except OSError:
            reply = NOTHING
        self.tally.attacked[name] += 1
        if reply.status not in kind.fine and reply.status != 503:
            self.tally.surprises.append(f"{name}: {reply.status} {reply.body[:200]!r}")

    async def watch(self) -> None:
        while True:
            self.tally.memory.append(self.server.resident)
            await asyncio.sleep(LOOK)


def attack_and_ask(
    clients: int, requests: int, share: float = 0.1, images: int = 12, threads: int = 2, **settings: object
) -> tuple[Tally, float]:
    """Run it; what happened, and the seconds that it took."""
    hide_loading_bars()
    known, tally = errands(Segmenter.from_pretrained(), images, seed=900), Tally()
    with serving(threads, **settings) as server:
        began = perf_counter()
        asyncio.run(Crowd(server, known, tally, requests, share).run(clients))
        return tally, perf_counter() - began


def lines_of(tally: Tally, seconds: float) -> list[str]:
    """The report in lines."""
    times = sorted(tally.seconds)
    early, late = tally.memory_then(0.2, 0.4), tally.memory_then(0.8, 1.0)
    return [
        f"good requests: {tally.good}, wrong {len(tally.wrong)}, lost {len(tally.lost)}",
        f"  {tally.masks} with masks, the library's in every pixel in {tally.exact}, at least in {tally.worst:.5f} of "
        "the pixels",
        f"  sent again: {dict(tally.again) or 'none'}",
        f"hostile requests: {sum(tally.attacked.values())} of {len(tally.attacked)} kinds, "
        f"answered otherwise than they should be {len(tally.surprises)}",
        f"time: {seconds:.0f} s, {(tally.good + sum(tally.attacked.values())) / seconds:.1f} requests per second; "
        f"an answer: median {statistics.median(times):.2f} s, 95 % below {times[int(0.95 * (len(times) - 1))]:.2f} s",
        f"memory of the server: {early:.0f} MB early (20 to 40 % of the time), {late:.0f} MB late (80 to 100 %), "
        f"{late / early - 1:+.1%}; highest {max(tally.memory):.0f} MB",
        *(f"  wrong: {what}" for what in tally.wrong[:10]),
        *(f"  lost: {what}" for what in tally.lost[:10]),
        *(f"  surprise: {what}" for what in tally.surprises[:10]),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--hostile", type=float, default=0.1, help="share of the requests")
    parser.add_argument("--threads", type=int, default=2, help="of the server's CPU")
    parser.add_argument("--images-bytes", type=int, default=96 * 2**20, help="that the server keeps open")
    parser.add_argument("--patience", type=float, help="seconds of the server with slow clients; default its own")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    patience = {} if options.patience is None else dict.fromkeys(("body_seconds", "idle_seconds"), options.patience)
    tally, seconds = attack_and_ask(
        *(options.clients, options.requests, options.hostile),
        threads=options.threads,
        images_bytes=options.images_bytes,
        **patience,
    )
    if options.json:
        print(json.dumps({**vars(tally), "time": seconds}))
    else:
        print(f"{options.clients} clients, {options.requests} requests; {machine('cpu', options.threads)}")
        print("\n".join(lines_of(tally, seconds)))
    if not tally.fine:
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
