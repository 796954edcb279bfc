"""What a page shows as printed, against what was."""

from __future__ import annotations

import re
from itertools import zip_longest

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def assert_shown(page: str, printed: str) -> None:
    """The page shows what was printed: word for word, where "..." stands for anything on a line (alone: for any
    lines), and numbers up to what another machine rounds otherwise."""
    rest = [line.rstrip() for line in printed.strip().splitlines()]
    skip = False
    for line in page.strip().splitlines():
        if line.strip() == "...":
            skip = True
            continue
        while skip and rest and not _alike(line, rest[0]):
            rest.pop(0)
        assert rest, f"the page shows {line!r}; nothing more was printed:\n{printed}"
        assert _alike(line, rest[0]), f"the page shows\n  {line}\nbut what was printed is\n  {rest[0]}"
        rest.pop(0)
        skip = False
    assert skip or not rest, f"the page leaves out {rest}"


def _alike(page: str, printed: str) -> bool:
    pattern = r"\s+".join(map(_pattern, page.split()))
    match = re.fullmatch(rf"\s*{pattern}\s*", printed)
    if not match:
        return False
    pairs = zip_longest(NUMBER.findall(page.replace("...", " ")), match.groups())
    return all(abs(float(a) - float(b)) <= 0.02 + 0.05 * abs(float(a)) for a, b in pairs)


def _pattern(word: str) -> str:
    """A word as a pattern: "..." for anything, a group for each number."""
    pattern = "".join(
        ".*" if part == "..." else f"({NUMBER.pattern})" if NUMBER.fullmatch(part) else re.escape(part)
        for part in re.split(rf"(\.\.\.|{NUMBER.pattern})", word)
    )
    return pattern
