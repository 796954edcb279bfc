"""Words that a tokenizer does not know. One that knows every byte knows every word."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

PROBE = "\U0010fffd"  # a private character: no vocabulary of words has it
APOSTROPHES = "'’"
POSSESSIVE = "s"


class Vocabulary:
    """The words of a tokenizer, as far as it can report that it does not know one."""

    def __init__(self, tokenizer: Any):
        self.tokenizer, self._unknown = tokenizer, tokenizer.unk_token_id
        self._closed = self._unknown is not None and self._unknown in self._ids(PROBE)

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of `text` that become unknown tokens, each once, as they are written there.

        Punctuation, marks and the possessive 's are no words; emoji are. Of words joined by a hyphen only the unknown
        ones are named, of a contraction ("don't") all of it."""
        if not self._closed:
            return ()
        words = (self._word(text, start, end) for start, end in self._pieces(text))
        return tuple(dict.fromkeys(word for word in words if _means(word)))

    def _pieces(self, text: str) -> list[tuple[int, int]]:
        """Where the unknown tokens stand in the text."""
        if not self.tokenizer.is_fast:  # no places are known: by words
            words = [match.span() for match in re.finditer(r"\S+", text)]
            return [(start, end) for start, end in words if self._unknown in self._ids(text[start:end])]
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [
            place
            for token, place in zip(encoding.input_ids, encoding.offset_mapping, strict=True)
            if token == self._unknown
        ]

    def _word(self, text: str, start: int, end: int) -> str:
        """The unknown piece; with the word before its apostrophe, unless it is a possessive."""
        piece = text[start:end].strip()
        joined = re.search(rf"\w+[{APOSTROPHES}]$", text[:start])
        if joined is None:
            return piece
        return "" if piece.lower() == POSSESSIVE else f"{joined[0]}{piece}"

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids


def _means(piece: str) -> bool:
    """Whether there is a letter, a digit or a pictogram in it."""
    return any(unicodedata.category(letter)[0] in "LN" or unicodedata.category(letter) == "So" for letter in piece)
