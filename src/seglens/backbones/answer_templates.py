"""Questions and answers in segmentation tokens, token by token: to be learnt, or to be read."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from seglens.backbones.chat_template import LONGEST_QUESTION, Prompts, QuestionError
from seglens.core.tuning_types import AnswerTemplates, TokenizedAnswer

QUERY = "{}"  # stands for the query in a request or an answer


@dataclass(frozen=True)
class AnswerPieces:
    """An answer in pieces: text, and the ids of new tokens. A new token inside a query stays text."""

    pieces: tuple[str | int, ...]

    def tokens(self, prompts: Prompts, query: str) -> list[int]:
        ids = (
            [piece] if isinstance(piece, int) else prompts.text_tokens(piece.replace(QUERY, query))
            for piece in self.pieces
            if piece != ""
        )
        return [token for piece in ids for token in piece]


class AnswerTokens:
    """The token ids of `AnswerTemplates`. `names` are the new tokens with their ids, `end` is the id that ends an
    answer.

    Raises ValueError when an answer does not hold the segmentation tokens in their order."""

    def __init__(self, prompts: Prompts, templates: AnswerTemplates, names: Mapping[str, int], end: int | None):
        self.prompts, self.templates, self._names = prompts, templates, names
        self._end = [] if end is None else [end]
        if not templates.tokens or not templates.answers or {*templates.tokens} - {*names}:
            raise ValueError(
                f"templates need answers, and tokens that are trained; got {len(templates.answers)} answers, tokens "
                f"{', '.join(templates.tokens) or 'none'}, trained {', '.join(names) or 'none'}: name them alike"
            )
        self._answers = [self._line(answer) for answer in templates.answers]
        self._refusal = None if templates.refusal is None else self._line(templates.refusal)
        wanted = [names[token] for token in templates.tokens]
        for answer, line in zip(templates.answers, self._answers, strict=True):
            if [p for p in line.pieces if p in wanted] != wanted:
                raise ValueError(
                    f"the answer {answer!r} does not hold {' '.join(templates.tokens)}, in this order and no more; "
                    "correct it"
                )

    def question(self, query: str) -> TokenizedAnswer:
        """A question as it is read: with the first answer, up to its last segmentation token.

        Raises QuestionError as `Prompts.question_tokens` does."""
        question = self._question(query)
        answer = self._answers[0].tokens(self.prompts, query)
        places = self._places(answer)
        answer = answer[: places[-1] + 1]
        return _words(question, answer, places)

    def example(
        self, query: str, answer: str | None = None, present: bool = True, why: str | None = None
    ) -> TokenizedAnswer:
        """A question with all of its answer, as it is learnt; with `answer`, one that is answered in words alone. `why`
        stands after the tokens, as LISA explains a mask.

        A query always gets the same one of several answers. Raises QuestionError as `Prompts.question_tokens` does."""
        if answer is not None:
            if not answer.strip():
                raise QuestionError(f"got an empty answer to {query!r}; leave the question out")
            tokens = self.prompts.text_tokens(answer)
            whole = [*tokens, *self._end] if len(tokens) < LONGEST_QUESTION else tokens[:LONGEST_QUESTION]
            return _words(self.prompts.question_tokens([query])[0], whole, [0] * len(self.templates.tokens), True)
        question = self._question(query)
        if present or self._refusal is None:
            line = self._answers[zlib.crc32(query.encode()) % len(self._answers)]
            tokens = line.tokens(self.prompts, query)
            places = self._places(tokens)
            if why is not None:
                tokens = [*tokens, *self.prompts.text_tokens(f" {why.strip()}")][:LONGEST_QUESTION]
            return _words(question, [*tokens, *self._end], places)
        tokens = self._refusal.tokens(self.prompts, query)
        new = {*self._names.values()}
        first = next((n for n, token in enumerate(tokens) if token in new), 0)
        return _words(question, [*tokens, *self._end], [first] * len(self.templates.tokens))

    def conversation(self, request: str, opening: str, items: Sequence[tuple[str, str]]) -> list[TokenizedAnswer]:
        """Queries of one conversation, each with the item that answers it, as they are learnt: the same words for all,
        each with its own place. Only the first of them learns the answer.

        Full stops around a query are dropped, and the question is in lower case: so the authors of MLLMSeg. Raises
        QuestionError as `Prompts.question_tokens` does."""
        queries = [query.strip().strip(".") for query, _ in items]
        for query in queries:
            self.prompts.check(query)
        question = self.prompts.question_tokens([request.replace(QUERY, ", ".join(queries).lower())])[0]
        pieces: list[str | int] = [opening]
        for n, (query, (_, item)) in enumerate(zip(queries, items, strict=True)):
            pieces += [", "] if n else []
            pieces += [p.replace(QUERY, query) if isinstance(p, str) else p for p in self._line(item).pieces]
        answer = [*self._tokenised([*pieces, "."]), *self._end]
        new = {*self._names.values()}
        places = [n for n, token in enumerate(answer) if token in new]
        first, *others = [_words(question, answer, [place] * len(self.templates.tokens)) for place in places]
        return [first, *(replace(words, learnt=(False,) * len(words.ids)) for words in others)]

    def _tokenised(self, pieces: Sequence[str | int]) -> list[int]:
        """Tokens of text and of new tokens; neighbouring pieces of text are tokenised together."""
        tokens, text = list[int](), ""
        for piece in [*pieces, None]:
            if isinstance(piece, str):
                text += piece
                continue
            tokens += self.prompts.text_tokens(text) if text else []
            tokens += [] if piece is None else [piece]
            text = ""
        return tokens

    def _question(self, query: str) -> list[int]:
        self.prompts.check(query)
        return self.prompts.question_tokens([self.templates.request.replace(QUERY, query)])[0]

    def _places(self, answer: Sequence[int]) -> list[int]:
        wanted = {self._names[token] for token in self.templates.tokens}
        return [n for n, token in enumerate(answer) if token in wanted]

    def _line(self, text: str) -> AnswerPieces:
        parts = re.split("(" + "|".join(map(re.escape, sorted(self._names, key=len, reverse=True))) + ")", text)
        return AnswerPieces(tuple(self._names.get(part, part) for part in parts))


def _words(
    question: Sequence[int], answer: Sequence[int], places: Sequence[int], spoken: bool = False
) -> TokenizedAnswer:
    """`places` count from the start of the answer."""
    learnt = (False,) * len(question) + (True,) * len(answer)
    return TokenizedAnswer((*question, *answer), learnt, tuple(len(question) + n for n in places), spoken)
