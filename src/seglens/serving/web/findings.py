"""What has been found in a picture so far: one finding per query, each with its own colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from seglens.inference.prediction import Prediction
from seglens.serving.web.layers import COLOURS


@dataclass(frozen=True, eq=False)
class Finding:
    """The answer to one query. `id` stays the same while the query keeps its place in the legend."""

    id: int
    prediction: Prediction
    first: int  # number of the colour of its first thing; the next numbers are those of the others
    trusted: bool = False  # shown although the picture or a word is unfamiliar to the model

    @property
    def key(self) -> str:
        """The query without differences that do not matter: equal keys are the same query."""
        return " ".join(self.prediction.query.split()).rstrip(".").casefold()

    @property
    def doubted(self) -> bool:
        """Whether no mask is shown because the picture or a word is unfamiliar to the model."""
        one = self.prediction
        return not (one.found or self.trusted) and (one.familiar is False or bool(one.unknown_words))


Findings = tuple[Finding, ...]


def put(
    findings: Findings, prediction: Prediction, max_findings: int, trusted: bool = False
) -> tuple[Findings, Finding, Findings]:
    """Add an answer: the findings with it, the new one, and those removed beyond `max_findings`.

    A query that was asked before is replaced in its place; a new one comes last, and the oldest is removed."""
    new = Finding(1 + max((one.id for one in findings), default=0), prediction, 0, trusted)
    old = next((one for one in findings if one.key == new.key), None)
    others = [one for one in findings if one is not old]
    first = _colour(others, _things(prediction), 0 if old is None else old.first)
    new = replace(new, first=first, id=new.id if old is None else old.id)
    findings = (*findings, new) if old is None else tuple(new if one is old else one for one in findings)
    extra = max(0, len(findings) - max_findings)
    return findings[extra:], new, findings[:extra]


def changed(findings: Findings, id: int, prediction: Prediction) -> Findings:
    """The findings with another answer for finding `id`."""
    return tuple(replace(one, prediction=prediction) if one.id == id else one for one in findings)


def _colour(others: Sequence[Finding], count: int, preferred: int) -> int:
    """The first of `count` successive colours which the others use least; `preferred` where none is better."""
    used = [(one.first + k) % len(COLOURS) for one in others for k in range(_things(one.prediction))]

    def shared(first: int) -> int:
        return sum(used.count((first + k) % len(COLOURS)) for k in range(count))

    return min([preferred, *range(len(COLOURS))], key=shared)


def _things(prediction: Prediction) -> int:
    """How many colours it needs; one where nothing was found, as a click may still give a mask."""
    return max(1, len(prediction.things))
