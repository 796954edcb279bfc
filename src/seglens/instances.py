"""Several things that one query means, each with a mask of its own: which words ask for them, and the split.

The grammar, in English: "each" as the first determiner ("each cup", "segment each of the cups"; not "the cups beside
each other", nor "a man with a cup in each hand"), or a closing "separately", "individually" or "one by one".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from seglens.prediction import Instance
from seglens.regions import label_regions

LEAST = 0.02  # of the largest: a smaller region is a crumb, not a thing
_DETERMINER = r"\b(?:the|a|an|this|that|these|those|all|every|both|my|your|his|her|its|our|their)\b"
_EACH = re.compile(rf"^(?P<before>(?:(?!{_DETERMINER}).)*?)\beach\b(?! other\b)(?P<of>(?: one)? of\b)?", re.I | re.S)
_APART = re.compile(r"[\s,]*\b(?:separately|individually|one by one)\b(?P<end>[\s.!?]*)$", re.I)


@dataclass(frozen=True)
class Asked:
    """A query without the words that ask for separate masks, and whether they were there."""

    words: str
    each: bool


def asked(query: str) -> Asked:
    """ "each of the cups" asks for "all the cups", one by one; "every cup separately" for "every cup", one by one."""
    words = _APART.sub(r"\g<end>", query)
    found = _EACH.match(words)
    if found and found["of"]:
        words = f"{found['before']}all{words[found.end() :]}"
    return Asked(words, each=found is not None or words != query)


def split(mask: Bool[np.ndarray, "h w"], chance: Float[np.ndarray, "h w"]) -> tuple[Instance, ...]:
    """The connected regions of a mask, best first, without crumbs."""
    labels = label_regions(mask)
    areas = np.bincount(labels.ravel(), minlength=2)[1:]
    kept = np.flatnonzero((areas > 0) & (areas >= LEAST * areas.max())) + 1
    found = [Instance(labels == k, float(chance[labels == k].mean())) for k in kept]
    return tuple(sorted(found, key=lambda one: -one.score))
