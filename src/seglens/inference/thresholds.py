"""Above which logit a pixel belongs to the mask, and below which probability a query counts as absent."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

MASK_THRESHOLD = 0.0  # logits (LISA's protocol); the authors of LENS used a probability of 0.6


def threshold_of(value: Any) -> float:
    """A logit. Raises ValueError for what is no number."""
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(float(value)):
        raise ValueError(f"got {value!r} for mask_threshold; need a number (a logit: 0 is a probability of one half)")
    return float(value)


def check_presence(threshold: float) -> None:
    """Raises ValueError unless it is a probability: 0 refuses nothing, 1 nearly all."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"got a presence threshold of {threshold}; it needs a probability from 0 to 1, as in 0.5")


def threshold_logit(probability: float) -> float:
    """The logit above which a pixel's probability is above `probability`: 0.6 for the released evaluation of LENS.

    Raises ValueError unless it lies between 0 and 1."""
    if not 0 < probability < 1:
        raise ValueError(f"got a mask threshold of {probability}; it needs a probability between 0 and 1, as in 0.6")
    return math.log(probability / (1 - probability))
