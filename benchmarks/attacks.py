"""Requests of a client that is wrong, broken or means harm, each with the answers that it may get."""

from __future__ import annotations

import asyncio
import itertools
import struct
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from served import Server
from wire import NOTHING, Reply, answer, exchange, post, request, upload

Attack = Callable[["Target"], Awaitable[Reply]]
SEGMENT, IMAGES, CHAT = "/v1/segment", "/v1/images", "/v1/chat/completions"


@dataclass(frozen=True)
class Target:
    """A server, and what is known of it: a good picture, and its data URI."""

    server: Server
    png: bytes
    uri: str

    def send(self, request: bytes) -> Awaitable[Reply]:
        return exchange(self.server, request)


@dataclass(frozen=True)
class Kind:
    """An attack, and the statuses that answer it well. 0: the server may also hang up."""

    run: Attack
    fine: frozenset[int]


def bomb(side: int = 60_000) -> bytes:
    """A PNG of a few kilobytes whose header gives `side` x `side` pixels, with data for a part of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(4_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


BOMB = bomb()


async def gone_within(target: Target, request: bytes, share: float) -> Reply:
    """Send a share of a request, and leave."""
    _, writer = await asyncio.open_connection(target.server.host, target.server.port)
    writer.write(request[: max(1, int(share * len(request)))])
    await writer.drain()
    writer.close()
    return NOTHING


async def drip(target: Target, at_once: bytes, slowly: bytes, every: float = 0.25, longest: float = 120.0) -> Reply:
    """A beginning, then a byte now and then, until the server has had enough. Raises TimeoutError when it never has."""
    reader, writer = await asyncio.open_connection(target.server.host, target.server.port)
    reply = asyncio.ensure_future(answer(reader))
    try:
        writer.write(at_once)
        async with asyncio.timeout(longest):
            for k in itertools.count():
                if reply.done():
                    return reply.result()
                writer.write(slowly[k % len(slowly) :][:1])
                await asyncio.wait({reply}, timeout=every)
        raise AssertionError("a count has no end")
    except OSError:
        return NOTHING
    finally:
        reply.cancel()
        writer.close()


def _question(target: Target, **change: object) -> bytes:
    return post(SEGMENT, {"image": target.uri, "queries": ["the largest thing"], **change})


def _chat(target: Target, text: object, **change: object) -> bytes:
    picture = {"type": "image_url", "image_url": {"url": target.uri}}
    message = {"role": "user", "content": [picture, {"type": "text", "text": text}]}
    return post(CHAT, {"model": "embedded", "messages": [message], **change})


def _status(*statuses: int, send: Callable[[Target], bytes]) -> Kind:
    return Kind(lambda target: target.send(send(target)), frozenset(statuses))


ATTACKS: dict[str, Kind] = {
    "image bomb": _status(413, send=lambda t: upload(IMAGES, BOMB)),
    "truncated image": _status(400, send=lambda t: upload(IMAGES, t.png[: len(t.png) // 2])),
    "damaged image": _status(400, send=lambda t: upload(IMAGES, t.png[:60] + bytes(200) + t.png[260:])),
    "text for an image": _status(400, send=lambda t: upload(IMAGES, b"I am a picture, believe me. " * 50)),
    "nothing for an image": _status(400, 422, send=lambda t: upload(IMAGES, b"")),
    "content of another type": _status(415, send=lambda t: request("POST", IMAGES, t.png, "image/png")),
    "JSON that breaks off": _status(422, send=lambda t: request("POST", SEGMENT, _parted(_question(t))[1][:-40])),
    "JSON nested deeply": _status(400, 422, send=lambda t: request("POST", SEGMENT, b"[" * 100_000)),
    "bytes that are no text": _status(400, 422, send=lambda t: request("POST", SEGMENT, b'{"image": "\xff\xfe\x00"}')),
    "an unknown field": _status(422, send=lambda t: _question(t, path="/etc/passwd")),
    "values of other types": _status(422, send=lambda t: _question(t, queries={"a": 1}, each="perhaps")),
    "no queries": _status(422, send=lambda t: _question(t, queries=[])),
    "an empty query": _status(400, 422, send=lambda t: _question(t, queries=[" "])),
    "a lone surrogate": _status(400, 422, send=lambda t: _question(t, queries=["\ud800"])),
    "a huge query": _status(413, send=lambda t: _question(t, queries=["a cup " * 100_000])),
    "too many queries": _status(413, send=lambda t: _question(t, queries=["the cup"] * 1000)),
    "a huge prompt in a chat": _status(413, 422, send=lambda t: _chat(t, "tell me of the cup " * 50_000)),
    "a chat without words": _status(400, 422, send=lambda t: _chat(t, None)),
    "an unknown image": _status(404, send=lambda t: _question(t, image="img_" + "A" * 32)),
    "a path for an image": _status(400, send=lambda t: _question(t, image="/etc/passwd")),
    "a file address for an image": _status(400, send=lambda t: _question(t, image="file:///etc/passwd")),
    "a private address for an image": _status(400, send=lambda t: _question(t, image="http://169.254.169.254/latest")),
    "an unknown address": _status(404, send=lambda t: request("GET", "/v1/../../etc/passwd")),
    "another method": _status(405, send=lambda t: request("PUT", SEGMENT, b"{}")),
    "no HTTP": _status(400, 0, send=lambda t: bytes(range(256)) * 4 + b"\r\n\r\n"),
    "a huge header": _status(400, 431, 0, send=lambda t: b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"),
    "a huge body": _status(413, 0, send=lambda t: upload(IMAGES, bytes(40 * 2**20))),
    "gone in the header": Kind(lambda t: gone_within(t, _question(t), 0.001), frozenset({0})),
    "gone in the body": Kind(lambda t: gone_within(t, _question(t), 0.6), frozenset({0})),
    "gone before the answer": Kind(lambda t: gone_within(t, _question(t), 1.0), frozenset({0})),
    "a header that drips": Kind(lambda t: drip(t, b"GET / HTTP/1.1\r\nX: ", b"a"), frozenset({400, 408, 0})),
    "a body that drips": Kind(lambda t: drip(t, *_parted(_question(t))), frozenset({408, 0})),
}


def _parted(request: bytes) -> tuple[bytes, bytes]:
    """The header, and the body."""
    head, end, body = request.partition(b"\r\n\r\n")
    return head + end, body
