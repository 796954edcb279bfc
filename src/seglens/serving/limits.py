"""Limits on what one request may contain, with the defaults of the server, the page and the tools."""

from __future__ import annotations

from dataclasses import astuple, dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Of one request. An image's pixels are counted by its header, before anything is decoded."""

    request_bytes: int = 32 * MIB  # of the whole; base64 makes four bytes of an image's three
    image_bytes: int = 20 * MIB  # of an encoded image
    pixels: int = 64_000_000  # of an image: above the largest common telephone's; 183 MiB of RGB
    queries: int = 32  # each gives a mask of the image's size
    characters: int = 2000  # of a query, a question or a message
    tool_characters: int = 4000  # the same in a call by an agent

    def __post_init__(self) -> None:
        if min(astuple(self)) < 1:
            raise ValueError(f"got {self}; each limit must be at least 1")
