"""Which internet addresses a client may make the server fetch: public ones by https, and none in its own network."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from seglens.data.image_decoding import ImageError

try:
    import httpx
except ImportError as error:
    raise ImportError("image addresses need the library 'httpx': pip install 'seglens[serve]'") from error

MAX_URL = 4096  # characters
_SHOWN = 100  # characters of an address that an error repeats
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")

Address = IPv4Address | IPv6Address

# From IANA's registry of special addresses, and not from `is_global`, whose answers change with Python's version. The
# last has a public number, but is a service inside Azure's cloud (WireServer).
_NOT_PUBLIC = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        "168.63.129.16/32",
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# Inside it, but not public hosts: they contain an IPv4 address (Teredo, 6to4), or are for documents and tests.
_EXCEPTIONS = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


class FetchError(ImageError):
    """An address that must not be fetched, or that gave no image."""


def is_public(address: Address) -> bool:
    """Whether an address is a host of the public internet.

    Not: private, loopback, link-local (metadata services), carrier-grade NAT, multicast, reserved; nor any IPv6 address
    that stands for an IPv4 one (mapped, compatible, 6to4, Teredo, NAT64), as those reach what IPv4 rules forbid."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC)
    return address in _GLOBAL_UNICAST and not any(address in network for network in _EXCEPTIONS)


def parse_addresses(texts: list[str]) -> tuple[Address, ...]:
    """The addresses from a resolver, in its order, each once. A scope ("fe80::1%eth0") is cut off: no such address is
    public."""
    return tuple(dict.fromkeys(ip_address(text.partition("%")[0]) for text in texts))


def parse_url(text: str) -> httpx.URL:
    """Raises FetchError for anything but https://host/..., the host a name or an address as it is usually written."""
    if len(text) > MAX_URL:
        raise FetchError(f"{short(text)} has {len(text)} characters; need an address of at most {MAX_URL}")
    try:
        url = httpx.URL(text)
        host = host_of(url)
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise FetchError(f"{short(text)} is not an address; need one as https://host/image.jpg") from error
    if url.scheme != "https" or not (":" in host or _NAME.fullmatch(host)):
        raise FetchError(f"{short(text)} is not called; need an address that begins with https://")
    if url.userinfo:
        raise FetchError("the address holds a user's name or password; need one without: send the image itself")
    if _is_odd_number(host):
        raise FetchError(f"{short(text)} names its host by a number in another notation; need its name")
    return url


def _is_odd_number(host: str) -> bool:
    """Whether the system would read a host as an IPv4 address that is not written as four decimals: 2130706433,
    0x7f.1, 0177.0.0.1 (https://url.spec.whatwg.org/#ends-in-a-number-checker)."""
    last = host.rpartition(".")[2]
    if ":" in host or not (last.isdigit() or last.startswith("0x")):
        return False
    parts = host.split(".")
    return len(parts) != 4 or not all(part.isdigit() and str(int(part)) == part for part in parts)


def host_of(url: httpx.URL) -> str:
    """The name as it is sent: ASCII, in lower case, without a dot at its end."""
    return url.raw_host.decode("ascii").lower().rstrip(".")


def short(url: object) -> str:
    text = str(url)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
