"""Two servers, one over HTTP and one that speaks MCP over HTTP, with hostile clients beside honest ones."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import psutil
from attacks import BOMB, Target, drip, gone_within
from errands import SAME, Errand, errands
from hostile import attack_and_ask
from mcp import Client
from served import STARTUP_SECONDS, Server
from trials import Trial
from wire import NOTHING, Reply, exchange, request

import seglens
from seglens import Segmenter
from seglens.data.masks import decode_rle

FLAT = 1.1  # memory late in the run to that early in it
CALLS = 2  # of an honest client
FEW, PATIENT = 16, 12.0  # clients; seconds that the server waits for slow ones, so that a trial has an end


def at_the_server(clients: int, hostile: int) -> Iterator[Trial]:
    """`seglens serve`: as benchmarks/hostile.py, a third of the requests hostile."""
    if not hostile:
        return
    patience = dict.fromkeys(("body_seconds", "idle_seconds"), PATIENT if clients > FEW else PATIENT / 4)
    tally, _ = attack_and_ask(clients, 3 * hostile, 1 / 3, images=6, threads=1, images_bytes=96 * 2**20, **patience)
    wrong = [*tally.wrong, *tally.lost]
    for k in range(tally.good):
        yield Trial("honest requests to the server", str(k), k >= len(wrong), wrong[k] if k < len(wrong) else "")
    for k, name in enumerate(tally.attacked.elements()):
        odd = tally.surprises[k] if k < len(tally.surprises) else ""
        yield Trial("hostile requests to the server", name, not odd, odd)
    yield _flat("memory of the server", tally.memory)


def _flat(kind: str, memory: Sequence[float]) -> Trial:
    """MB, the largest of samples during the run."""
    third = max(1, len(memory) // 3)
    early, late = statistics.median(memory[third : 2 * third] or memory), statistics.median(memory[-third:])
    return Trial(kind, f"{early:.0f} MB, then {late:.0f} MB", late < FLAT * early, f"{late / early:.2f} times as much")


# ---------------------------------------------------------------- MCP


@contextmanager
def _mcp() -> Iterator[Server]:
    """`seglens mcp` over HTTP with the embedded default, on a free port."""
    words = [sys.executable, "-m", "seglens", "mcp", "--http", "127.0.0.1:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(seglens.__file__).parents[1])}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
        try:
            until = monotonic() + STARTUP_SECONDS
            while not (match := re.search(r"MCP at http://127\.0\.0\.1:(\d+)", _read(log))):
                if process.poll() is not None or monotonic() > until:
                    raise RuntimeError(f"the MCP server did not come up: {_read(log)}")
                sleep(0.05)
            yield Server("127.0.0.1", int(match[1]), psutil.Process(process.pid))
            process.send_signal(signal.SIGTERM)
            if process.wait(90) or "Traceback" in _read(log):
                raise RuntimeError(f"the MCP server ended with {process.returncode}: {_read(log)[-2000:]}")
        finally:
            process.kill()
            process.wait()


def _read(log: object) -> str:
    log.seek(0)  # type: ignore[attr-defined]
    return log.read()  # type: ignore[attr-defined]


Hostile = Callable[[Target], Awaitable[Reply]]


def _rpc(method: str, **parameters: object) -> bytes:
    """A message of the protocol, as a client without a session sends it."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
    return _raw(body)


def _raw(body: bytes, *headers: str, host: str = "127.0.0.1") -> bytes:
    message = request("POST", "/mcp", body).replace(b"Host: seglens", f"Host: {host}".encode())
    more = "".join(f"{line}\r\n" for line in ("Accept: application/json, text/event-stream", *headers)).encode()
    return message.replace(b"\r\n", b"\r\n" + more, 1)


def _call(name: str, **arguments: object) -> bytes:
    return _rpc("tools/call", name=name, arguments=arguments)


# A call in a separate session is refused before its arguments are read: `TOOLS` are sent by real clients.
RAW: Mapping[str, Hostile] = {
    "no JSON": lambda t: t.send(_raw(b'{"jsonrpc": ')),
    "JSON nested deeply": lambda t: t.send(_raw(b"[" * 100_000)),
    "bytes that are no text": lambda t: t.send(_raw(b"\xff\xfe\x00")),
    "an unknown method": lambda t: t.send(_rpc("tools/destroy")),
    "a session of somebody else": lambda t: t.send(_raw(b"{}", "Mcp-Session-Id: 0000")),
    "a name that points here": lambda t: t.send(_raw(b"{}", host="evil.example")),
    "a page elsewhere": lambda t: t.send(_raw(b"{}", "Origin: https://evil.example")),
    "a huge body": lambda t: t.send(_raw(bytes(80 * 2**20))),
    "another method": lambda t: t.send(request("PUT", "/mcp", b"{}")),
    "another address": lambda t: t.send(request("GET", "/../../etc/passwd")),
    "no HTTP": lambda t: t.send(bytes(range(256)) * 4 + b"\r\n\r\n"),
    "gone in the body": lambda t: gone_within(t, _call("segment", image=t.uri, queries=["the cup"]), 0.6),
    "gone before the answer": lambda t: gone_within(t, _call("segment", image=t.uri, queries=["the cup"]), 1.0),
    "a header that drips": lambda t: drip(t, b"POST /mcp HTTP/1.1\r\nX: ", b"a", longest=1.0),
}
TOOLS: Mapping[str, tuple[str, Callable[[Errand], dict[str, object]]]] = {
    "an unknown tool": ("destroy", lambda e: {}),
    "no arguments": ("segment", lambda e: {}),
    "a path": ("segment", lambda e: {"image": "/etc/passwd", "queries": ["the cup"]}),
    "a private address": ("segment", lambda e: {"image": "http://169.254.169.254/latest", "queries": ["the cup"]}),
    "an image bomb": ("segment", lambda e: {"image": _uri(BOMB), "queries": ["the cup"]}),
    "half an image": ("segment", lambda e: {"image": _uri(e.png[: len(e.png) // 2]), "queries": ["the cup"]}),
    "an unknown id": ("ask", lambda e: {"image": "img_" + "A" * 32, "question": "what is it?"}),
    "too many queries": ("segment", lambda e: {"image": e.uri, "queries": ["the cup"] * 1000}),
    "a huge query": ("segment", lambda e: {"image": e.uri, "queries": ["the cup " * 10_000]}),
    "clicks elsewhere": ("refine", lambda e: {"image": e.uri, "query": "the cup", "clicks": [{"x": 1e9, "y": 0}]}),
    "values of other types": ("segment", lambda e: {"image": 7, "queries": {"a": 1}}),
}


def _uri(data: bytes) -> str:
    import base64

    return "data:image/png;base64," + base64.b64encode(data).decode()


@dataclass
class Crowd:
    """Honest clients, each with a session, beside a list of attacks that some others work through."""

    server: Server
    known: Sequence[Errand]
    found: list[Trial]
    memory: list[float]

    @property
    def url(self) -> str:
        return f"http://{self.server.host}:{self.server.port}/mcp"

    async def run(self, clients: int, hostile: int, chance: random.Random) -> None:
        names = [*RAW, *TOOLS]
        plan = iter(chance.sample(list(itertools.islice(itertools.cycle(names), hostile)), hostile))
        watch = asyncio.ensure_future(self.watch())
        honest = [self.honest(random.Random(f"{k}")) for k in range(clients)]
        await asyncio.gather(*honest, *(self.hostile(plan) for _ in range(max(1, clients // 8))))
        watch.cancel()

    async def watch(self) -> None:
        while True:
            self.memory.append(self.server.resident)
            await asyncio.sleep(0.5)

    async def honest(self, chance: random.Random) -> None:
        async with Client(self.url) as client:
            for _ in range(CALLS):
                errand = chance.choice(self.known)
                which = chance.sample(range(len(errand.queries)), 2)
                queries = [errand.queries[k] for k in which]
                for _ in range(40):  # a full server asks to send it again
                    result = await client.call_tool(
                        "segment", {"image": errand.uri, "queries": queries, "overlay": False}
                    )
                    if "ask again" not in str(result.content):
                        break
                    await asyncio.sleep(1)
                self.found.append(_judged(result, errand, which))

    async def hostile(self, plan: Iterator[str]) -> None:
        for name in plan:
            fault = await (self.raw(name) if name in RAW else self.tool(name))
            self.found.append(Trial("hostile requests to MCP", name, not fault, f"{name}: {fault}"))

    async def raw(self, name: str) -> str:
        """What is wrong with the answer, if anything: it must be a refusal, or the end of the connection."""
        reply = NOTHING
        with suppress(TimeoutError, OSError):
            reply = await RAW[name](Target(self.server, self.known[0].png, self.known[0].uri))
        return "" if reply.status == 0 or 400 <= reply.status < 500 or b'"error"' in reply.body else str(reply)[:200]

    async def tool(self, name: str) -> str:
        tool, arguments = TOOLS[name]
        async with Client(self.url) as client:
            try:
                result = await client.call_tool(tool, arguments(self.known[0]))
            except Exception as error:  # of the protocol: an unknown tool
                return "" if "Traceback" not in str(error) else str(error)[:200]
        refused = result.is_error and "Traceback" not in str(result.content) and result.structured_content is None
        return "" if refused else str(result.content)[:200]


def _judged(result: object, errand: Errand, which: Sequence[int]) -> Trial:
    answers = (result.structured_content or {}).get("answers", [])  # type: ignore[attr-defined]
    fine = len(answers) == len(which)
    for answer, k in zip(answers, which, strict=False):
        fine &= answer["found"] == errand.found[k] and (
            not answer["found"] or float((decode_rle(answer["segmentation"]) == errand.masks[k]).mean()) >= SAME
        )
    return Trial("honest calls of MCP", str(which), fine, str(result)[:200])


def over_mcp(clients: int, hostile: int, chance: random.Random) -> Iterator[Trial]:
    """Every honest call gets the library's masks, every hostile one a refusal in words."""
    if not hostile:
        return
    known = errands(Segmenter.from_pretrained(device="cpu"), 4, seed=901)
    with _mcp() as server:
        crowd = Crowd(server, known, [], [])
        asyncio.run(crowd.run(clients, hostile, chance))
        alive = asyncio.run(exchange(server, _rpc("ping"))).status
    yield from crowd.found
    yield Trial("the MCP server after it all", f"status {alive}", 0 < alive < 500)
    yield _flat("memory of the MCP server", crowd.memory)
