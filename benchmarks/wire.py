"""HTTP as a client writes it, byte by byte: so that a benchmark can also be slow, wrong or gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from served import Server


@dataclass(frozen=True)
class Reply:
    """What came back. Status 0: nothing; the connection ended."""

    status: int
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of a refusal."""
        try:
            return str(self.json()["error"]["code"])
        except (ValueError, KeyError, TypeError):
            return ""


NOTHING = Reply(0)


def request(
    method: str, path: str, body: bytes = b"", kind: str = "application/json", length: int | None = None
) -> bytes:
    """A request's bytes. `length` is that of its header, by default the true one."""
    stated = len(body) if length is None else length
    head = f"{method} {path} HTTP/1.1\r\nHost: seglens\r\nConnection: close\r\n"
    if body or length is not None:
        head += f"Content-Type: {kind}\r\nContent-Length: {stated}\r\n"
    return head.encode() + b"\r\n" + body


def post(path: str, value: Mapping[str, Any]) -> bytes:
    return request("POST", path, json.dumps(value).encode())


def upload(path: str, file: bytes) -> bytes:
    """A form with one file."""
    edge = uuid4().hex
    before = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'.encode()
    body = before + file + f"\r\n--{edge}--\r\n".encode()
    return request("POST", path, body, f"multipart/form-data; boundary={edge}")


async def exchange(server: Server, message: bytes, seconds: float = 120.0) -> Reply:
    """Send everything, read the answer. No answer within the time is none."""
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(server.host, server.port)
        try:
            writer.write(message)
            await writer.drain()
            return await answer(reader)
        except OSError:
            return NOTHING
        finally:
            writer.close()


class Line:
    """A connection that is kept for further requests, as the usual clients keep theirs."""

    def __init__(self, server: Server):
        self.server = server
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, message: bytes) -> Reply:
        """Raises OSError when the connection cannot be had."""
        if self._ends is None:
            self._ends = await asyncio.open_connection(self.server.host, self.server.port)
        reader, writer = self._ends
        writer.write(message.replace(b"Connection: close\r\n", b"", 1))
        await writer.drain()
        return await answer(reader)

    def close(self) -> None:
        if self._ends is not None:
            self._ends[1].close()


async def answer(reader: asyncio.StreamReader) -> Reply:
    """One answer, whole or none."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = int(head.split()[1])
        lengths = [line.split(":")[1] for line in head.lower().splitlines() if line.startswith("content-length:")]
        if status == 204:  # it has no body, and no length
            return Reply(status)
        body = await (reader.readexactly(int(lengths[0])) if lengths else reader.read())
    except (asyncio.IncompleteReadError, OSError):
        return NOTHING
    return Reply(status, body)
