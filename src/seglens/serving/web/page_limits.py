"""Limits of one page in a browser."""

from __future__ import annotations

from dataclasses import dataclass

from seglens.serving.limits import MIB, Limits


@dataclass(frozen=True)
class PageLimits:
    """They keep a page responsive when many people open it. How many pixels an image may have is limited by
    `data.images`."""

    upload_bytes: int = Limits.image_bytes  # of one file
    characters: int = Limits.characters  # of one message
    waiting: int = 32  # requests in the queue; for the next one the page says to come back later
    visits: int = 64  # that are stored; then the longest unused one is removed
    memory: int = 2048 * MIB  # bytes of all visits together
    visit_seconds: int = 3600  # without a message, after which a visit is removed
    steps: int = 20  # that one visitor can undo
    findings: int = 12  # queries about one picture whose masks are stored
    side: int = 1280  # pixels of the longest side of a picture as it is shown; masks always have all pixels
