"""The templates of queries, as in LISA and LENS, for training and for evaluation.

Only the words of the user: each model's own chat template writes the image and the line break after it. The leading
blanks of some evaluation templates are their authors', after that line break; a tokenizer sees them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from seglens.core.names import check_name
from seglens.core.types import Sample, Target
from seglens.data.dataset import Dataset, DatasetWrapper, usable
from seglens.data.faults import RecordFault
from seglens.data.rng import below, words

LONG = ("sentence", "long")


@dataclass(frozen=True)
class QueryTemplates:
    """Templates with {query}: `short` for names and phrases, `long` for whole sentences, `why` for an answer in words
    besides the mask. `lower`: names and phrases in lower case; `undotted`: without full stops at their ends."""

    short: tuple[str, ...]
    long: tuple[str, ...]
    why: tuple[str, ...] = ()
    lower: bool = False
    undotted: bool = False


_ASK = ("Can you segment the {query} in this image?", "Please segment the {query} in this image.")
_WHAT = "What is {query} in this image?"
_RESPOND, _OUTPUT = " Please respond with segmentation mask.", " Please output segmentation mask."

PROMPTS: dict[str, QueryTemplates] = {
    "none": QueryTemplates(("{query}",), ("{query}",)),  # for methods that have their own request
    "lisa": QueryTemplates(
        (*_ASK, _WHAT + _RESPOND, _WHAT + _OUTPUT),
        ("{query}" + _RESPOND, "{query}" + _OUTPUT),
        tuple(
            "{query} Please output segmentation mask and " + why
            for why in ("explain why.", "explain the reason.", "give some explanation.")
        ),
        lower=True,
    ),
    "lens": QueryTemplates((*_ASK, _WHAT, _WHAT), ("{query}",), lower=True),  # LISA's without the last sentence
    "lisa-eval": QueryTemplates((" " + _WHAT + _OUTPUT,), (" {query}" + _OUTPUT,)),
    "lens-eval": QueryTemplates((_WHAT,), (" {query}",)),
    # UFO's and MLLMSeg's own questions, around these, are settings of the methods
    "ufo": QueryTemplates((*_ASK, _WHAT, _WHAT), ("{query}",), lower=True),
    "ufo-eval": QueryTemplates((_WHAT,), ("{query}",), lower=True),
    "mllmseg": QueryTemplates(("{query}",), ("{query}",), lower=True, undotted=True),
}


def apply(preset: str, query: str, kind: str, key: int, why: bool = False) -> str:
    """The query in a template that `key`, a word of 64 random bits, chooses among those for its kind.

    Raises ValueError on an unknown preset, and on an empty query, which a template would hide."""
    check_name(preset, PROMPTS, "prompt")
    if preset == "none":
        return query
    if not query.strip():
        raise ValueError("got an empty query; it must name what to search for")
    forms = PROMPTS[preset]
    templates = forms.why if why and forms.why else forms.long if kind in LONG else forms.short
    template = templates[below(key, len(templates))]
    return template.format(query=worded(query, kind, forms.lower, forms.undotted))


def worded(query: str, kind: str, lower: bool, undotted: bool) -> str:
    """The query as it is written in a template."""
    text = query.strip()
    if kind in LONG:
        return text
    text = text.strip(".").strip() if undotted else text
    return text.lower() if lower else text


def prompted(sample: Sample, preset: str, seed: int = 0) -> Sample:
    """The sample with its queries in templates, chosen by its id, the number of the target, and the seed.

    Where a target has an answer in words, half of the prompts ask for it (LISA's shares are 45 % with mask and words,
    45 % with the mask, and 10 % without a mask, which is left out here). A question with an answer in words alone gets
    no template."""
    return replace(
        sample,
        targets=tuple(_in_template(sample.id, number, t, preset, seed) for number, t in enumerate(sample.targets)),
    )


def _in_template(sample: str, number: int, target: Target, preset: str, seed: int) -> Target:
    if target.spoken:
        return target
    key, coin = words(2, "prompt", seed, sample, number)
    why = bool(target.answer and PROMPTS[preset].why) and below(coin, 2) == 1
    try:
        query = apply(preset, target.query, target.kind, key, why)
    except ValueError as error:
        raise ValueError(f"target {number} of image {sample}: {error}") from None
    return replace(target, query=query, explained=why, prompted=True)


class Prompted(DatasetWrapper):
    """A dataset with its queries in the templates of a preset, otherwise unchanged.

    Raises ValueError on an unknown preset."""

    def __init__(self, inner: Dataset, preset: str, seed: int = 0):
        check_name(preset, PROMPTS, "prompt")
        self.inner, self.preset, self.seed = inner, preset, seed

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        return prompted(self.inner[index], self.preset, self.seed)

    def usable(self, index: int) -> tuple[Sample | None, list[RecordFault]]:
        sample, faults = usable(self.inner, index)
        return None if sample is None else prompted(sample, self.preset, self.seed), faults

    def __iter__(self) -> Iterator[Sample]:
        return (prompted(sample, self.preset, self.seed) for sample in self.inner)
