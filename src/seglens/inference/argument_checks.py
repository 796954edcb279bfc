"""Checks of arguments in Python: a value of another type is refused in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from seglens.backbones import QuestionError
from seglens.core.schema import Box, Click
from seglens.inference.refinement import CorrectionError


def queries_of(query: Any) -> list[str]:
    """One query, or a list of them, as a list. Raises QuestionError for anything else."""
    queries = [query] if isinstance(query, str) else query
    if not isinstance(queries, list | tuple):
        raise QuestionError(f"got {_kind(query)} for a query; need a string, or a list of strings")
    wrong = [one for one in queries if not isinstance(one, str)]
    if wrong:
        raise QuestionError(f"got {_kind(wrong[0])} in the list of queries; need strings")
    return list(queries)


def question_of(question: Any) -> str:
    """Raises QuestionError for what is no string."""
    if not isinstance(question, str):
        raise QuestionError(f"got {_kind(question)} for a question; need a string")
    return question


def corrections_of(clicks: Any, box: Any) -> tuple[Sequence[Click], Box | None]:
    """Raises CorrectionError for anything but clicks and a box."""
    if not isinstance(clicks, list | tuple):
        raise CorrectionError(f"got {_kind(clicks)} for the clicks; need a list, as in [Click(x=120, y=80, label=1)]")
    wrong = [one for one in clicks if not isinstance(one, Click)]
    if wrong:
        raise CorrectionError(
            f"got {_kind(wrong[0])} for a click; need Click(x=120, y=80, label=1) of seglens.core.schema"
        )
    if box is not None and not isinstance(box, Box):
        raise CorrectionError(
            f"got {_kind(box)} for the box; need Box(x0=10, y0=10, x1=90, y1=60) of seglens.core.schema"
        )
    return clicks, box


def _kind(value: Any) -> str:
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"{type(value).__name__}"
