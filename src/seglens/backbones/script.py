"""What is said to an MLLM that answers in segmentation tokens, word by word: to be learnt, or to be read."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seglens.backbones.prompts import LONGEST_QUESTION, Prompts, QuestionError
from seglens.types import Speech, Words

QUERY = "{}"  # stands for the query in a request or an answer


@dataclass(frozen=True)
class Line:
    """An answer in pieces: text, and the ids of new tokens. What a query spells stays text."""

    pieces: tuple[str | int, ...]

    def tokens(self, prompts: Prompts, query: str) -> list[int]:
        spelt = ([p] if isinstance(p, int) else prompts.said(p.replace(QUERY, query)) for p in self.pieces if p != "")
        return [token for piece in spelt for token in piece]


class Script:
    """All that is said by a `Speech`. `names` are the new tokens with their ids, `end` is the id that ends an answer.

    Raises ValueError when an answer does not hold the segmentation tokens in their order."""

    def __init__(self, prompts: Prompts, speech: Speech, names: Mapping[str, int], end: int | None):
        self.prompts, self.speech, self._names = prompts, speech, names
        self._end = [] if end is None else [end]
        if not speech.tokens or not speech.answers or {*speech.tokens} - {*names}:
            raise ValueError(
                f"a speech needs answers, and tokens that are trained; got {len(speech.answers)} answers, tokens "
                f"{', '.join(speech.tokens) or 'none'}, trained {', '.join(names) or 'none'}: name them alike"
            )
        self._answers = [self._line(answer) for answer in speech.answers]
        self._refusal = None if speech.refusal is None else self._line(speech.refusal)
        wanted = [names[token] for token in speech.tokens]
        for answer, line in zip(speech.answers, self._answers, strict=True):
            if [p for p in line.pieces if p in wanted] != wanted:
                raise ValueError(
                    f"the answer {answer!r} does not hold {' '.join(speech.tokens)}, in this order and no more; "
                    "correct it"
                )

    def question(self, query: str) -> Words:
        """A question as it is read: with the first answer, up to its last segmentation token.

        Raises QuestionError as `Prompts.to_read` does."""
        asked = self._asked(query)
        answer = self._answers[0].tokens(self.prompts, query)
        places = self._places(answer)
        answer = answer[: places[-1] + 1]
        return _words(asked, answer, places)

    def lesson(self, query: str, answer: str | None = None, present: bool = True, why: str | None = None) -> Words:
        """A question with all of its answer, as it is learnt; with `answer`, one that is answered in words alone. `why`
        is said behind the tokens, as LISA explains a mask.

        A query always gets the same one of several answers. Raises QuestionError as `Prompts.to_read` does."""
        if answer is not None:
            if not answer.strip():
                raise QuestionError(f"got an empty answer to {query!r}; leave the question out")
            said = self.prompts.said(answer)
            whole = [*said, *self._end] if len(said) < LONGEST_QUESTION else said[:LONGEST_QUESTION]
            return _words(self.prompts.to_read([query])[0], whole, [0] * len(self.speech.tokens), True)
        asked = self._asked(query)
        if present or self._refusal is None:
            line = self._answers[zlib.crc32(query.encode()) % len(self._answers)]
            said = line.tokens(self.prompts, query)
            places = self._places(said)
            if why is not None:
                said = [*said, *self.prompts.said(f" {why.strip()}")][:LONGEST_QUESTION]
            return _words(asked, [*said, *self._end], places)
        said = self._refusal.tokens(self.prompts, query)
        new = {*self._names.values()}
        first = next((n for n, token in enumerate(said) if token in new), 0)
        return _words(asked, [*said, *self._end], [first] * len(self.speech.tokens))

    def _asked(self, query: str) -> list[int]:
        self.prompts.check(query)
        return self.prompts.to_read([self.speech.request.replace(QUERY, query)])[0]

    def _places(self, answer: Sequence[int]) -> list[int]:
        wanted = {self._names[token] for token in self.speech.tokens}
        return [n for n, token in enumerate(answer) if token in wanted]

    def _line(self, text: str) -> Line:
        found = re.split("(" + "|".join(map(re.escape, sorted(self._names, key=len, reverse=True))) + ")", text)
        return Line(tuple(self._names.get(piece, piece) for piece in found))


def _words(asked: Sequence[int], answer: Sequence[int], places: Sequence[int], spoken: bool = False) -> Words:
    """`places` count from the start of the answer."""
    learnt = (False,) * len(asked) + (True,) * len(answer)
    return Words((*asked, *answer), learnt, tuple(len(asked) + n for n in places), spoken)
