"""Which arguments of a command are sources, and which are queries; ambiguous ones are refused."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from itertools import pairwise, takewhile
from pathlib import Path

from seglens.data.image_decoding import suffixes
from seglens.inference.image_files import matches
from seglens.inference.image_sources import STDIN
from seglens.inference.video import VIDEOS

_PIECES = """
a an the this that these those my your his her its our their some any each every all both no not of on in at by to for
from with without under over above below behind beside between near next inside outside and or but is are was were be
has have can could what which who whom whose where when why how i you it they segment find show mark me please
"""
_KINDS = """
red green blue yellow black white brown grey gray purple pink big bigger biggest large larger largest small smaller
smallest tiny little tall taller tallest short shorter shortest long longer longest old young oldest youngest left
right upper lower leftmost rightmost topmost bottommost front back nearest closest farthest highest lowest first
second third last other same wooden metal round dark light bright brightest darkest wet empty full open closed broken
"""
PIECES = frozenset(_PIECES.split())  # words without a meaning of their own: alone, a piece of a sentence
KINDS = frozenset(_KINDS.split())  # adjectives: before another word, probably half a query and not a whole one
_ENDING = re.compile(r"\S+\.(?=\w*[a-z])\w{2,5}", re.IGNORECASE)


def split_arguments(words: Sequence[str], queries: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The sources among the arguments, and the queries: those after them, or else `queries` (the options).

    The first argument is a source, and so is each following one that names an existing file or folder, or ends like an
    image, a video or a folder. Raises ValueError, which explains both readings, where a later argument is no clear
    query, and where queries look like one sentence without quotes."""
    if queries:
        return list(words), [_checked(query) for query in queries]
    more = list(takewhile(is_source, words[1:]))
    sources, rest = [words[0], *more], list(words[1 + len(more) :])
    _check_first(words)
    if not rest:
        raise ValueError(f"got {' '.join(words)!r} and no query; {_how_to_ask(more)}")
    for word in rest:
        _check_query(word, rest[0])
    _check_sentence(rest)
    return sources, [_checked(query) for query in rest]


def one_text(words: Sequence[str], what: str) -> str:
    """The one text (a query, a question) that a command takes. Raises ValueError when its quotes are missing."""
    if len(words) > 1:
        file = next((word for word in words if os.path.exists(word)), None)
        hint = f"; {file!r} is a file, and only one image can be given" if file else ""
        raise ValueError(
            f"got {len(words)} words for one {what}; put it in quotes: {shlex.quote(' '.join(words))}{hint}"
        )
    return _checked(words[0], what)


def is_source(word: str) -> bool:
    """Whether an argument is hardly meant as a query."""
    path = os.path.expanduser(word)
    ends = word.endswith(("/", os.sep)) or Path(word).suffix.lower() in suffixes() | VIDEOS
    return word == STDIN or ends or os.path.exists(path) or matches(word)


def _checked(text: str, what: str = "query") -> str:
    if not text.strip():
        raise ValueError(f"got an empty {what}; need words")
    return text


def _check_first(words: Sequence[str]) -> None:
    """A file name with spaces arrives in pieces when its quotes are missing."""
    if is_source(words[0]):
        return
    for end in range(2, len(words)):
        whole = " ".join(words[:end])
        if os.path.exists(whole):
            raise ValueError(f"{words[0]!r} does not exist, but {whole!r} does; put it in quotes: {shlex.quote(whole)}")


def _how_to_ask(sources: Sequence[str]) -> str:
    if sources and os.path.exists(sources[-1]) and Path(sources[-1]).suffix.lower() not in suffixes() | VIDEOS:
        kind = "folder" if os.path.isdir(sources[-1]) else "file"
        return (
            f"{sources[-1]!r} is a {kind} here: to use these words as a query, give --query {shlex.quote(sources[-1])}"
        )
    return "say what to segment, as in: seglens segment SRC 'the cup'"


def _check_query(word: str, first: str) -> None:
    as_query = f"if it is a query, give every query with --query, as in --query {shlex.quote(word)}"
    if word != first and is_source(word):
        raise ValueError(
            f"{word!r} comes after the query {first!r} and looks like a source; if it is one, name it before the "
            f"queries; {as_query}"
        )
    path = not re.search(r"\s", word) and (os.sep in word or "/" in word or word.startswith("~"))
    if path or _ENDING.fullmatch(word):
        raise ValueError(f"{word!r} looks like a file and does not exist; if it is one, check the path; {as_query}")


def _check_sentence(queries: Sequence[str]) -> None:
    if len(queries) < 2 or not (_has_a_piece(queries) or _has_half_a_query(queries)):
        return
    several = " ".join(f"--query {shlex.quote(query)}" for query in queries)
    raise ValueError(
        f"got {len(queries)} queries, {', '.join(map(repr, queries))}, which look like one without its quotes; for one "
        f"query write {shlex.quote(' '.join(queries))}; for {len(queries)} write {several}"
    )


def _has_a_piece(queries: Sequence[str]) -> bool:
    return any(query.lower() in PIECES for query in queries)


def _has_half_a_query(queries: Sequence[str]) -> bool:
    return any(one.lower() in KINDS and " " not in after.strip() for one, after in pairwise(queries))
