"""The prompt of a head: the templates and the system text of its training, as its config holds them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from seglens.core.names import check_name
from seglens.core.types import Target
from seglens.data.dataset import Dataset, DatasetWrapper
from seglens.data.query_templates import LONG, PROMPTS, Prompted, worded

AS_IT_STANDS = "as it stands"  # the kind of a query that is used without a template
SENTENCE, PHRASE = "sentence", "phrase"
# The preset of `PROMPTS` in which a head trained with another one is asked; all others are asked in their own
EVALUATION = {"lens": "lens-eval", "lisa": "lisa-eval", "ufo": "ufo-eval"}
# A query that begins like this is a whole request or question: it has a verb already, so no template adds one
_REQUEST = re.compile(
    r"(please|can|could|would|will|should|what|which|where|when|who|whose|whom|why|how|is|are|do|does|did|if|"
    r"i|we|you|let|segment|find|show|mark|outline|highlight|locate|identify|point|cut|select|give|draw|pick|get)\b",
    re.IGNORECASE,
)
LONG_PHRASE = 12  # words; anything longer is taken for a sentence
FULL_STOP = 5  # words; anything longer that ends in a full stop is taken for a sentence


@dataclass(frozen=True)
class HeadPrompt:
    """Templates with {query} for phrases (`short`) and whole sentences (`long`), and the `system` text that stands
    before the image. `lower`: phrases in lower case; `undotted`: without full stops at their ends.

    Raises ValueError for a template without {query}."""

    short: str = "{query}"
    long: str = "{query}"
    lower: bool = False
    undotted: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        for name in ("short", "long"):
            if getattr(self, name).count("{query}") != 1:
                raise ValueError(f"got {name}={getattr(self, name)!r}; it needs one {{query}} in place of the query")

    @classmethod
    def of(cls, preset: str, system: str | None = None) -> HeadPrompt | None:
        """The prompt of a head that was trained in a preset of `PROMPTS`; None for bare queries without a system text.

        Raises ValueError on an unknown preset."""
        check_name(preset, PROMPTS, "prompt")
        forms = PROMPTS[EVALUATION.get(preset, preset)]
        prompt = cls(forms.short[0], forms.long[0], forms.lower, forms.undotted, system)
        return None if prompt == cls() else prompt

    def apply(self, query: str, kind: str | None = None) -> str:
        """The query in its template. `kind` is that of a dataset's target, or `AS_IT_STANDS`; by default the words
        decide between sentence and phrase. An empty query stays empty, to be refused as such."""
        if kind == AS_IT_STANDS or not query.strip() or self.bare:
            return query
        kind = kind or (SENTENCE if is_sentence(query) else PHRASE)
        template = self.long if kind in LONG else self.short
        return template.replace("{query}", worded(query, kind, self.lower, self.undotted))

    @property
    def bare(self) -> bool:
        """Whether every query is used as it stands."""
        return replace(self, system=None) == HeadPrompt()


def is_sentence(query: str) -> bool:
    """Whether a query is a whole sentence ("Which of these holds water?") and not the name of a thing, by its words."""
    text, count = query.strip(), len(query.split())
    return (
        text.endswith(("?", "!"))
        or _REQUEST.match(text) is not None
        or count > LONG_PHRASE
        or (count > FULL_STOP and text.endswith("."))
    )


def prompt_kind(target: Target) -> str:
    """The kind for `HeadPrompt.apply`: a query that its dataset has put in a template stays as it stands."""
    return AS_IT_STANDS if target.prompted else target.kind


def prompt_of(data: Dataset) -> str | None:
    """The preset whose templates the queries of a dataset are in; None where they are bare."""
    if isinstance(data, Prompted):
        return data.preset
    return prompt_of(data.inner) if isinstance(data, DatasetWrapper) else None


def with_head_prompt(data: Dataset, preset: str) -> Dataset:
    """The dataset with its queries as a head that was trained in `preset` is asked; unchanged where they are in
    templates already."""
    if preset == "none" or prompt_of(data) is not None:
        return data
    return Prompted(data, EVALUATION.get(preset, preset))
