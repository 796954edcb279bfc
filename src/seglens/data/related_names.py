"""Whether the name of one class may also mean what another one names, so that an image of the other may show it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from seglens.data.same_words import plain

FILE = Path(__file__).parent / "class_names" / "kin.txt"
SHORT = 3  # letters that a word inside another must have to count: boat in motorboat
MOST_WORDS = 3  # of a class name, articles apart
ARTICLES = frozenset(("a", "an", "the"))
# Words that make a phrase of a name: a phrase may describe things of any class.
PHRASES = frozenset(
    (
        "that",
        "which",
        "who",
        "whose",
        "where",
        "when",
        "with",
        "without",
        "of",
        "on",
        "in",
        "at",
        "by",
        "from",
        "to",
        "near",
        "next",
        "behind",
        "under",
        "over",
        "above",
        "below",
        "left",
        "right",
        "middle",
        "centre",
        "center",
        "front",
        "back",
        "top",
        "bottom",
        "first",
        "second",
        "third",
        "other",
        "not",
        "only",
        "and",
        "or",
        "for",
        "is",
        "are",
        "has",
        "wearing",
        "holding",
        "sitting",
        "standing",
        "lying",
        "largest",
        "smallest",
        "biggest",
        "closest",
    )
)


def related(one: str, other: str) -> bool:
    """Whether two names share a word, contain each other, or are related by `kin.txt`: synonyms, kinds."""
    return one == other or any(_alike(a, b) for a in _words(one) for b in _words(other))


def is_class_name(text: str) -> bool:
    """Whether words can be the name of a class, rather than a phrase about one thing in one image."""
    words = [word for word in re.findall(r"[^\W_]+", plain(text)) if word not in ARTICLES]
    return 0 < len(words) <= MOST_WORDS and not PHRASES.intersection(words)


@cache
def _words(name: str) -> frozenset[str]:
    """The words of a name in the singular; neighbours also as one word (cell phone, cellphone)."""
    words = [_singular(word) for word in re.findall(r"[^\W_]+", plain(name)) if word not in ARTICLES]
    pairs = [a + b for a, b in pairwise(words)]
    return frozenset((*words, *pairs)) or frozenset((plain(name),))


def _singular(word: str) -> str:
    if len(word) > SHORT and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > SHORT and re.search(r"(s|x|z|ch|sh)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > SHORT and word.endswith("s") and not word.endswith("ss") else word


@cache
def _alike(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return one == other or (len(short) >= SHORT and short in long) or other in _kin().get(one, ())


@cache
def _kin() -> dict[str, frozenset[str]]:
    """Every word of the table with the related ones, both ways."""
    table = dict[str, set[str]]()
    for one, other in _pairs():
        table.setdefault(one, set()).add(other)
        table.setdefault(other, set()).add(one)
    return {word: frozenset(others) for word, others in table.items()}


def _pairs() -> Iterator[tuple[str, str]]:
    for line in FILE.read_text("utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        names, _, kinds = line.partition(">")
        same = [_singular(word.strip()) for word in names.split("=")]
        yield from ((one, other) for one in same for other in same if one != other)
        yield from ((one, _singular(kind)) for one in same for kind in kinds.split())
