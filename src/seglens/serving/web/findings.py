"""What has been found in a picture so far: a layer for each query, with its words and colours of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seglens.inference.prediction import Prediction
from seglens.serving.web.layers import COLOURS


@dataclass(frozen=True, eq=False)
class Finding:
    """The answer to one query. `id` stays the same for as long as the query keeps its place in the legend."""

    id: int
    prediction: Prediction
    first: int  # number of the colour of its first thing; the others follow
    trusted: bool = False  # asked for in spite of a picture or a word that is strange to the model

    @property
    def words(self) -> str:
        """The query, without what makes no difference: the same words are the same query."""
        return " ".join(self.prediction.query.split()).rstrip(".").casefold()

    @property
    def doubted(self) -> bool:
        """Whether nothing is shown though a mask was drawn: the picture, or a word, is strange to the model."""
        found = self.prediction
        return not (found.found or self.trusted) and (found.familiar is False or bool(found.unknown_words))


Findings = tuple[Finding, ...]


def put(
    findings: Findings, prediction: Prediction, most: int, trusted: bool = False
) -> tuple[Findings, Finding, Findings]:
    """With one more answer: all that are kept, the new one, and those that had to go because there are at most `most`.

    A query that was asked before is replaced, in its place; what is new comes last, and the oldest goes."""
    new = Finding(1 + max((one.id for one in findings), default=0), prediction, 0, trusted)
    old = next((one for one in findings if one.words == new.words), None)
    others = [one for one in findings if one is not old]
    first = _colour(others, _things(prediction), 0 if old is None else old.first)
    new = replace(new, first=first, id=new.id if old is None else old.id)
    kept = (*findings, new) if old is None else tuple(new if one is old else one for one in findings)
    gone = max(0, len(kept) - most)
    return kept[gone:], new, kept[:gone]


def changed(findings: Findings, id: int, prediction: Prediction) -> Findings:
    """With another answer for finding `id`."""
    return tuple(replace(one, prediction=prediction) if one.id == id else one for one in findings)


def _colour(others: Sequence[Finding], count: int, liked: int) -> int:
    """The first of `count` colours in a row which the others use least; the `liked` one where there is no better."""
    taken = [(one.first + k) % len(COLOURS) for one in others for k in range(_things(one.prediction))]

    def shared(first: int) -> int:
        return sum(taken.count((first + k) % len(COLOURS)) for k in range(count))

    return min([liked, *range(len(COLOURS))], key=shared)


def _things(prediction: Prediction) -> int:
    """How many colours it needs; one where nothing was found, since a click may show something yet."""
    return max(1, len(prediction.things))
