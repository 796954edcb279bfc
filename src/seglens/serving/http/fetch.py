"""Images by address, fetched so that an address from a client cannot reach what only this machine can reach.

The checks follow those of roboflow/inference (GHSA-hjmm-hr52-vrp2): https only, every address of the host public, the
connection made to an address that was checked (a second look-up could give another one), each redirect checked again,
limits on bytes and time.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass

import anyio
import anyio.to_thread
import httpx
import numpy as np
from jaxtyping import UInt8

from seglens import __version__
from seglens.data.image_decoding import ImageTooLargeError
from seglens.serving.http.addresses import Address, FetchError, host_of, is_public, parse_addresses, parse_url, short
from seglens.serving.limits import Limits
from seglens.serving.uploads import decode_bytes

_HEADERS = {"User-Agent": f"seglens/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}
_UNKNOWN = ("", "application/octet-stream", "binary/octet-stream")  # types that state nothing; the bytes decide
_SHOWN = 100  # characters of another server's text that an error repeats

Resolve = Callable[[str, int], Awaitable[list[str]]]  # host and port to addresses, as text


@dataclass(frozen=True)
class FetchLimits:
    """How long an address may take, in seconds, and how often it may redirect."""

    total: float = 15.0  # with all redirects, until the last byte
    step: float = 5.0  # to connect, or to wait for the next bytes
    redirects: int = 3


async def resolve(host: str, port: int) -> list[str]:
    """The addresses from this machine's resolver."""
    addresses = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in addresses]


class Fetcher:
    """Fetches images. Which addresses it may fetch and how it resolves names are arguments, because a private network
    that serves its own images needs others; nothing is read from the environment."""

    def __init__(
        self,
        limits: Limits,
        times: FetchLimits = FetchLimits(),
        *,
        resolve: Resolve = resolve,
        allowed: Callable[[Address], bool] = is_public,
        ports: Container[int] = (443,),
        trust: ssl.SSLContext | None = None,
    ):
        """`trust`: the certificates that are trusted; None: those that httpx trusts."""
        self.limits, self.times = limits, times
        self._resolve, self._allowed, self._ports = resolve, allowed, ports
        self._trust = trust or httpx.create_ssl_context(trust_env=False)

    async def image(self, url: str) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of the image at an https address.

        Raises FetchError, ImageTooLargeError over a limit, or ImageError when the bytes are no image."""
        data = await self.data(url)
        return await anyio.to_thread.run_sync(decode_bytes, data, self.limits)

    async def data(self, url: str) -> bytes:
        """The bytes at the address; whether they are an image is not checked. Raises as `image`."""
        try:
            with anyio.fail_after(self.times.total):
                return await self._follow(url)
        except TimeoutError as error:
            raise FetchError(f"{short(url)} took longer than {self.times.total:g} s; send the image itself") from error

    async def _follow(self, url: str) -> bytes:
        address = parse_url(url)
        for _ in range(self.times.redirects + 1):
            answer = await self._get(address)
            if isinstance(answer, bytes):
                return answer
            address = answer
        raise FetchError(f"{short(url)} redirects more than {self.times.redirects} times; give the last address")

    async def _get(self, url: httpx.URL) -> bytes | httpx.URL:
        """The bytes of one address, or the next address."""
        problem: Exception | None = None
        for address in await self._addresses(url):
            try:
                return await self._request(url, address)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:  # of several addresses one may be down
                problem = error
            except httpx.TimeoutException as error:
                raise FetchError(
                    f"{short(url)} sent nothing for {self.times.step:g} s; send the image itself"
                ) from error
            except httpx.HTTPError as error:
                problem = error
                break
        raise FetchError(f"{short(url)} cannot be fetched ({_reason(problem)}); send the image itself") from problem

    async def _addresses(self, url: httpx.URL) -> tuple[Address, ...]:
        """The addresses of the host, if all of them are public. Resolved once: the address that is checked is the one
        that is called."""
        port = url.port or 443
        if port not in self._ports:
            raise FetchError(f"{short(url)} has port {port}, which is not allowed; need an https address on port 443")
        try:
            addresses = parse_addresses(await self._resolve(host_of(url), port))
        except (OSError, UnicodeError, ValueError) as error:
            raise FetchError(f"{short(url)}: there is no host of that name; check the address") from error
        if not addresses or not all(map(self._allowed, addresses)):
            # The error does not name the addresses: that would reveal the structure of the network.
            raise FetchError(f"{short(url)} does not lead to the public internet; send the image itself")
        return addresses

    async def _request(self, url: httpx.URL, address: Address) -> bytes | httpx.URL:
        """One request to one address, with the host's own name in `Host` and in TLS, which verifies it."""
        # A new client each time: connections are reused by address, also for another name, which TLS would not verify.
        async with httpx.AsyncClient(
            verify=self._trust, trust_env=False, follow_redirects=False, timeout=self.times.step
        ) as client:
            request = client.build_request(
                "GET",
                url.copy_with(host=str(address), fragment=None),
                headers={**_HEADERS, "Host": url.netloc.decode("ascii")},
                extensions={"sni_hostname": host_of(url)},
            )
            response = await client.send(request, stream=True)
            try:
                return _next(url, response) if response.has_redirect_location else await self._body(url, response)
            finally:
                await response.aclose()

    async def _body(self, url: httpx.URL, response: httpx.Response) -> bytes:
        _check_head(url, response)
        body = bytearray()
        if _number(response.headers.get("Content-Length")) > self.limits.image_bytes:
            raise self._too_large(url)
        async for part in response.aiter_raw():  # a length in the header may be wrong
            body += part
            if len(body) > self.limits.image_bytes:
                raise self._too_large(url)
        return bytes(body)

    def _too_large(self, url: httpx.URL) -> ImageTooLargeError:
        return ImageTooLargeError(f"{short(url)} has more than {self.limits.image_bytes} bytes; make the image smaller")


def _next(url: httpx.URL, response: httpx.Response) -> httpx.URL:
    """The target of a redirect, checked as the first address is."""
    try:
        return parse_url(str(url.join(response.headers["Location"])))
    except (httpx.InvalidURL, ValueError) as error:
        if isinstance(error, FetchError):
            raise FetchError(f"{short(url)} redirects: {error}") from error
        raise FetchError(f"{short(url)} redirects to what is not an address; give the last address") from error


def _check_head(url: httpx.URL, response: httpx.Response) -> None:
    if response.status_code != 200:
        raise FetchError(f"{short(url)} answers with status {response.status_code}; check the address")
    if (
        response.headers.get("Content-Encoding", "identity").lower() != "identity"
    ):  # a compression bomb, or a proxy's mistake
        raise FetchError(f"{short(url)} sends compressed data without being asked; send the image itself")
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/") and kind not in _UNKNOWN:
        raise FetchError(f"{short(url)} is no image but {kind[:_SHOWN]!r}; need the address of the image file itself")


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def _reason(error: Exception | None) -> str:
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__
