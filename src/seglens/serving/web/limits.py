"""What one page takes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PageLimits:
    """Bounds that keep a page alive when many people open it; how many pixels an image may have is `data.images`' own
    business."""

    upload: int = 32 * 2**20  # bytes of one file
    words: int = 2000  # letters of one message
    waiting: int = 32  # requests in the queue; the next one is asked to come back later
    visitors: int = 64  # whose pictures are kept; then the one who was away longest is forgotten
    memory: int = 2 * 2**30  # bytes that are held for all of them together
    forget: int = 3600  # seconds without a word after which a visitor's picture and talk are forgotten
    steps: int = 20  # that one visitor can undo
    findings: int = 12  # queries about one picture whose masks are kept
    side: int = 1280  # pixels of the longest side of a picture as it is shown; masks are always whole
